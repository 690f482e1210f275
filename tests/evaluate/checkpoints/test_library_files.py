"""Files of libraries, built with the library itself: torchvision, timm, transformers and detectron2; MSRA pickles."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from evaluate.checkpoints.architectures import TRUNKS, expected, match_resnet
from evaluate.checkpoints.inspect import inspect_file
from evaluate.checkpoints.load import load_backbone
from pretrain.transforms import normalize

ON_TOP = "classifier or projection on top of the trunk"
ASSUMED = "assumed to be ImageNet's"


class Features(nn.Module):
    """A peer's pooled features: what `take` makes of its output."""

    def __init__(self, model: nn.Module, take: Any) -> None:
        super().__init__()
        self.model, self.take = model, take

    def forward(self, images: Tensor) -> Tensor:
        return self.take(self.model, images)


def test_torchvision(tmp_path: Path, peers: Any, prove: Any) -> None:
    path = tmp_path / "resnet18.pth"
    torch.save(peers.resnet(0, nn.Linear(512, 1000)).state_dict(), path)
    prove(path, peers.resnet(0), form="torchvision", chosen="", dropped={"fc": ON_TOP}, warned=(ASSUMED,))


def test_a_whole_pickled_model(tmp_path: Path, peers: Any, prove: Any) -> None:
    # torch.save(model) instead of its state_dict(): the classes are named in the file and never imported.
    path = tmp_path / "model.pth"
    torch.save(peers.resnet(0, nn.Linear(512, 10)), path)
    found = prove(path, peers.resnet(0), form="torchvision", chosen="", dropped={"fc": ON_TOP}, warned=(ASSUMED,))
    assert "torchvision.models.resnet.ResNet" in found.seen.not_run


@pytest.mark.parametrize("name", TRUNKS)
def test_every_backbone_is_told_by_its_shapes(name: str) -> None:
    match = match_resnet(expected(name))
    assert (match.backbone, match.fits) == (name, True)


def test_timm(tmp_path: Path, prove: Any, peers: Any) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("resnet18", pretrained=False)
    model.load_state_dict(peers.resnet(0, model.fc).state_dict())
    save_file(model.state_dict(), tmp_path / "model.safetensors", {"format": "pt"})
    half = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": half}))
    model.reset_classifier(0)
    prove(
        tmp_path / "model.safetensors",
        model,
        form="timm",
        chosen="",
        dropped={"fc": ON_TOP},
        normalization="half",
    )


def test_a_vit_of_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False).eval()
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    seen = inspect_file(path)
    assert (seen.formats, seen.backbone) == (("timm",), "timm:vit_tiny_patch16_224")
    assert {each.names for each in seen.dropped} == {"head.*"}
    model.reset_classifier(0)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(
            load_backbone(path).module.double()(images), model.double()(images), rtol=1e-6, atol=1e-6
        )


def hugging_face(peers: Any, name: str, *, classifier: bool, stride_in_1x1: bool = False) -> Any:
    transformers = pytest.importorskip("transformers")
    bottleneck = name == "resnet50"
    config = transformers.ResNetConfig(
        depths=[3, 4, 6, 3] if bottleneck else [2, 2, 2, 2],
        hidden_sizes=[256, 512, 1024, 2048] if bottleneck else [64, 128, 256, 512],
        layer_type="bottleneck" if bottleneck else "basic",
        downsample_in_bottleneck=stride_in_1x1,
        num_labels=7,
    )
    kind = transformers.ResNetForImageClassification if classifier else transformers.ResNetModel
    model = kind(config).eval()
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.0, generator=torch.Generator().manual_seed(tensor.numel()))
    trunk = model.resnet if classifier else model
    return model, Features(trunk, lambda model, images: model(images).pooler_output.flatten(1))


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize("classifier", [True, False])
def test_hugging_face(tmp_path: Path, peers: Any, prove: Any, classifier: bool, safe: bool) -> None:
    model, features = hugging_face(peers, "resnet18", classifier=classifier)
    if safe:
        model.save_pretrained(tmp_path)
        path = tmp_path / "model.safetensors"
    else:
        path = tmp_path / "pytorch_model.bin"
        torch.save(model.state_dict(), path)
    prove(
        path,
        features,
        form="huggingface",
        chosen="resnet." if classifier else "",
        dropped={"classifier": ON_TOP} if classifier else {},
    )


def test_hugging_faces_config_says_where_the_stride_is(tmp_path: Path, peers: Any, prove: Any) -> None:
    model, features = hugging_face(peers, "resnet50", classifier=False, stride_in_1x1=True)
    model.save_pretrained(tmp_path)
    found = prove(tmp_path / "model.safetensors", features, form="huggingface", chosen="", dropped={})
    assert found.seen.stride_in_1x1


def detectron2(*, stride_in_1x1: bool) -> nn.Module:
    from evaluate.detection import library
    from pretrain.runtime.errors import InputError

    try:
        library.load()
    except InputError as absent:
        pytest.skip(str(absent))
    from detectron2.modeling.backbone.resnet import BasicStem, ResNet

    stages = ResNet.make_default_stages(50, norm="BN", stride_in_1x1=stride_in_1x1)
    return ResNet(BasicStem(3, 64, norm="BN"), stages, out_features=["res5"]).eval()


def res5(model: nn.Module) -> nn.Module:
    return Features(model, lambda model, images: model(images)["res5"].mean((2, 3)))


GUESS = "cannot tell where the stride"


@pytest.mark.long
def test_detectron2_pickle(tmp_path: Path, prove: Any) -> None:
    model = detectron2(stride_in_1x1=False)
    randomise(model)
    path = tmp_path / "R-50.pkl"
    arrays = {n: t.numpy() for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "third_party", "matching_heuristics": True}))
    prove(path, res5(model), form="detectron2", chosen="model", dropped={}, warned=(GUESS, ASSUMED))


@pytest.mark.long
def test_detectron2_training_file(tmp_path: Path, peers: Any, prove: Any) -> None:
    model = detectron2(stride_in_1x1=False)
    randomise(model)
    detector = peers.parts(
        {
            "backbone": peers.parts({"bottom_up": model, "fpn_lateral5": nn.Conv2d(2048, 8, 1)}),
            "proposal_generator": peers.parts({"rpn_head": nn.Conv2d(8, 8, 1)}),
            "roi_heads": peers.parts({"box_head": nn.Linear(8, 8)}),
        }
    )
    path = tmp_path / "model_final.pth"
    torch.save({"model": detector.state_dict(), "optimizer": peers.optimizer(detector), "iteration": 89999}, path)
    prove(
        path,
        res5(model),
        form="detectron2",
        chosen="model/backbone.bottom_up.",
        dropped={
            "model/backbone.fpn": "feature pyramid",
            "model/proposal_generator": "detection heads",
            "model/roi_heads": "detection heads",
        },
        warned=(GUESS, ASSUMED),
    )


def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.0, generator=generator)


def caffe2_name(name: str, leaves: dict[str, str]) -> str:
    """A blob's name for a name of detectron2's ResNet, by c2_model_loading.py read backwards."""
    *path, leaf = name.split(".")
    if path[0] == "stem":
        return "conv1_w" if "norm" not in path else f"res_conv1_bn_{leaves[leaf]}"
    branch = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}[path[2]]
    return f"{path[0]}_{path[1]}_{branch}_" + (f"bn_{leaves[leaf]}" if "norm" in path else "w")


MSRA = {"weight": "gamma", "bias": "beta", "running_mean": "running_mean", "running_var": "running_var"}
FOLDED = {"weight": "s", "bias": "b"}


@pytest.mark.long
@pytest.mark.parametrize("leaves", [MSRA, FOLDED], ids=["msra", "folded"])
def test_msra_pickle(tmp_path: Path, prove: Any, leaves: dict[str, str]) -> None:
    model = detectron2(stride_in_1x1=True)
    randomise(model)
    if leaves is FOLDED:
        for norm in (module for module in model.modules() if isinstance(module, nn.BatchNorm2d)):
            norm.running_mean.zero_()
            norm.running_var.fill_(1.0)
            norm.eps = 0.0
    blobs = {
        caffe2_name(name, leaves): tensor.numpy()
        for name, tensor in model.state_dict().items()
        if name.rpartition(".")[2] in leaves
    }
    blobs |= {
        "conv1_b": np.zeros(64, "f4"),
        "fc1000_w": np.ones((1000, 2048), "f4"),
        "fc1000_b": np.ones(1000, "f4"),
        "res2_0_branch2a_w_momentum": np.ones(3, "f4"),
    }
    path = tmp_path / "R-50.pkl"
    # Caffe2's were written by Python 2, in protocol 2 at most.
    path.write_bytes(pickle.dumps(blobs if leaves is MSRA else {"blobs": blobs}, 2))
    at = "" if leaves is MSRA else "blobs"
    above = f"{at}/" if at else ""
    found = prove(
        path,
        res5(model),
        form="msra",
        chosen=at,
        dropped={
            f"{above}conv1_b": "bias of the first convolution, which detectron2 leaves out too",
            f"{above}fc1000": "classifier",
            f"{above}res2_0_branch2a_w_momentum": "state of the optimizer",
        },
        normalization="msra_bgr",
        warned=("folded",) if leaves is FOLDED else (),
    )
    assert found.seen.stride_in_1x1
    assert found.seen.input.normalization.channels == "BGR"


def test_channels_are_turned_for_bgr(tmp_path: Path, peers: Any) -> None:
    # A network that learnt from BGR is one whose first convolution has its channels the other way round.
    rgb, bgr = peers.resnet(0), peers.resnet(0)
    bgr.conv1.weight.data.copy_(rgb.conv1.weight.data.flip(1))
    values = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    turned = {name: numbers[::-1] for name, numbers in values.items()} | {"channels": "BGR"}
    torch.save(rgb.state_dict(), tmp_path / "rgb.pth")
    torch.save(bgr.state_dict(), tmp_path / "bgr.pth")
    of_rgb = load_backbone(tmp_path / "rgb.pth", normalization=values)
    of_bgr = load_backbone(tmp_path / "bgr.pth", normalization=turned)
    assert (of_rgb.metadata.normalization.channels, of_bgr.metadata.normalization.channels) == ("RGB", "BGR")
    pixels = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        ours, theirs = (
            each.module.double()(normalize(pixels, each.metadata.normalization).double()) for each in (of_bgr, of_rgb)
        )
        ignored = of_bgr.module(normalize(pixels, of_rgb.metadata.normalization).double())
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert (ignored - theirs).abs().max() > 1e-3
