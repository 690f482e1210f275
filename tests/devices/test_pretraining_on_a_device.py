"""Pretraining on the emulated device: the bits of the CPU, nothing left behind on the host, and few waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from emulated import OnDevice, emulated_cuda

from pretrain.backbones.handover import read_backbone
from pretrain.backbones.small_maps import SmallMapConv2d
from pretrain.data.catalog import Catalog, ShapesEntry
from pretrain.model import build_model
from pretrain.runtime.distributed import ALONE
from pretrain.train import train

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
MICRO = {"micro_batch_size": 2}


@pytest.fixture(autouse=True)
def _same_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    # Small maps are matrix products on a CPU alone, which rounds otherwise than the convolution of a GPU.
    monkeypatch.setattr(SmallMapConv2d, "forward", torch.nn.Conv2d.forward)


def images(count: int = 24) -> Any:
    return Catalog({"s": ShapesEntry(format="shapes", size=20, train=count)}).images("s", "train")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"precision": "bf16"},
        MICRO,
        {"extra_view": True, "combine_at": "projector"},
        {"grid": 1, "combine": 1, "loss_scale": "sum_2t", "optimizer": "lars", "decay_1d": False},
        {"views.where": "device"},
        {"views.output": "uint8"},
        {"online_knn_every": 1, "keep_epochs": [1]},
    ],
    ids=lambda changes: "-".join(f"{key}" for key in changes) or "plain",
)
def test_a_run_ends_in_the_bits_of_the_cpu(
    small_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    recipe = small_recipe(epochs=1, global_batch_size=8, **changes)
    expected, _ = read_backbone(train(recipe, images(), seed=1, out=tmp_path / "cpu", device=CPU).backbone_path)
    with emulated_cuda(monkeypatch):
        made = train(recipe, images(), seed=1, out=tmp_path / "cuda", device=CUDA)
    torch.testing.assert_close(read_backbone(made.backbone_path)[0], expected, rtol=0, atol=0)


def test_a_run_resumes_on_the_device(small_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = small_recipe(epochs=2, global_batch_size=8, save_every_steps=3)
    with emulated_cuda(monkeypatch):
        whole = train(recipe, images(), seed=1, out=tmp_path / "run", device=CUDA)
        expected, _ = read_backbone(whole.backbone_path)
        whole.backbone_path.unlink()
        *_, newest = sorted((tmp_path / "run" / "state").glob("step_*.pt"))
        newest.unlink()
        again = train(recipe, images(), seed=1, out=tmp_path / "run", device=CUDA)
    torch.testing.assert_close(read_backbone(again.backbone_path)[0], expected, rtol=0, atol=0)


def test_the_loop_waits_only_where_it_looks(small_recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One wait a step would let the device idle: 12 steps with a look every 6 may wait in those alone."""
    recipe = small_recipe(epochs=2, global_batch_size=4, log_every_steps=6)
    with emulated_cuda(monkeypatch) as waits:
        train(recipe, images(), seed=1, out=tmp_path, device=CUDA)
    at = {where.rpartition(":")[0]: count for where, count in waits.items()}
    assert set(at) <= {
        "train.py:_look",
        "train.py:_require_finite",
        "state.py:require_finite",
        "handover.py:<dictcomp>",
    }
    looks = 12 // 6
    assert waits["train.py:_look:tolist"] == waits["train.py:_look:item"] == looks
    assert waits["train.py:_require_finite:nonzero"] == looks
    assert waits["state.py:require_finite:tolist"] == 1


def test_the_emulated_device_refuses_what_a_real_one_does(small_recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with emulated_cuda(monkeypatch) as waits:
        model = build_model(small_recipe(), 0, CUDA, ALONE)
        assert all(isinstance(tensor, OnDevice) for tensor in (*model.parameters(), *model.buffers()))
        with pytest.raises(RuntimeError, match="same device, but conv2d got cuda:0 and cpu"):
            model.keys(torch.zeros(2, 3, 16, 16))
        keys = model.keys(torch.zeros(2, 3, 16, 16).to(CUDA))
        assert keys.device.type == "cuda"
        with pytest.raises(TypeError, match="can't convert cuda:0"):
            keys.numpy()
        assert not waits
        assert isinstance(keys.cpu(), torch.Tensor)
        assert not isinstance(keys.cpu(), OnDevice)
        assert sum(waits.values()) == 2
