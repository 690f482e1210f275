"""A backbone goes through every layout and back without losing a bit, and a trunk that lacks a tensor is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from evaluate.checkpoints.architectures import TRUNKS, expected
from evaluate.checkpoints.export import TARGETS, convert
from evaluate.checkpoints.inspect import inspect_file
from evaluate.checkpoints.load import load_backbone
from pretrain import backbones
from pretrain.errors import InputError


@pytest.fixture(scope="module")
def peer() -> nn.Module:
    """torchvision's own ResNet-18 whose every number is random, statistics included."""
    generator = torch.Generator().manual_seed(0)
    model = torchvision.models.resnet18(num_classes=7).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.1 + 0.5 * (tensor.ndim == 1))
    return model


def test_the_tables_are_the_backbones() -> None:
    assert set(TRUNKS) == set(backbones.names())
    for name in TRUNKS:
        with torch.device("meta"):
            state = backbones.build(name).state_dict()
        shapes = {key: tuple(tensor.shape) for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
        assert expected(name) == shapes, name


@pytest.mark.parametrize("target", TARGETS)
def test_there_and_back(tmp_path: Path, peer: nn.Module, target: str) -> None:
    source = tmp_path / "peer.pth"
    out = tmp_path / ("out.safetensors" if target in ("huggingface", "timm", "fastmoco") else "out.bin")
    torch.save(peer.state_dict(), source)
    convert(source, target, out)
    loaded = load_backbone(out)
    own = peer.state_dict()
    for name, tensor in loaded.module.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(tensor, own[name]), name
    assert len(inspect_file(out).formats) == 1


def test_features_are_the_peers_own(tmp_path: Path, peer: nn.Module) -> None:
    path = tmp_path / "peer.pth"
    torch.save(peer.state_dict(), path)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    head = peer.fc
    try:
        peer.fc = nn.Identity()
        with torch.no_grad():
            theirs = peer(images)
    finally:
        peer.fc = head
    torch.testing.assert_close(load_backbone(path).module(images), theirs, rtol=1e-6, atol=1e-6)


def test_moco_takes_the_query_and_misses_nothing(tmp_path: Path, peer: nn.Module) -> None:
    path = tmp_path / "moco.pth"
    query = {f"module.encoder_q.{name}": tensor for name, tensor in peer.state_dict().items() if "fc" not in name}
    keys = {name.replace("encoder_q", "encoder_k"): tensor + 1 for name, tensor in query.items()}
    state = {**query, **keys, "module.encoder_q.fc.0.weight": torch.ones(2, 2)}
    torch.save({"epoch": 3, "arch": "resnet18", "state_dict": state}, path)
    seen = inspect_file(path)
    assert (seen.formats, seen.chosen, seen.loads) == (("moco_v2",), "state_dict/module.encoder_q.", True)
    assert load_backbone(path).metadata.epoch == 3
    del state["module.encoder_q.layer3.1.bn2.bias"]
    torch.save({"epoch": 3, "arch": "resnet18", "state_dict": state}, path)
    assert inspect_file(path).missing == ("layer3.1.bn2.bias",)
    with pytest.raises(InputError, match=r"1 tensors of resnet18 are missing: layer3\.1\.bn2\.bias"):
        load_backbone(path)
