"""A backbone goes through every layout and back without losing a bit, and each library takes what is written for it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from evaluate.checkpoints.architectures import TRUNKS, expected
from evaluate.checkpoints.export import TARGETS, convert
from evaluate.checkpoints.inspect import inspect_file
from evaluate.checkpoints.load import load_backbone
from pretrain.backbones import registry
from pretrain.runtime.errors import InputError

SAFE = ("timm", "huggingface", "fastmoco")


@pytest.fixture
def source(tmp_path: Path, peers: Any) -> Path:
    """torchvision's own ResNet-18, every number random, statistics included."""
    path = tmp_path / "source.pth"
    torch.save(peers.resnet(0, nn.Linear(512, 7)).state_dict(), path)
    return path


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def same(ours: nn.Module, theirs: Tensor, images: Tensor) -> None:
    assert theirs.std() > 1e-3
    torch.testing.assert_close(theirs.flatten(1), ours(images), rtol=1e-5, atol=1e-5)


def written(folder: Path, target: str) -> Path:
    return folder / ("out.safetensors" if target in SAFE else "out.bin")


def test_the_tables_are_the_backbones() -> None:
    assert set(TRUNKS) == set(registry.names())
    for name in TRUNKS:
        with torch.device("meta"):
            state = registry.build(name).state_dict()
        shapes = {key: tuple(tensor.shape) for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
        assert expected(name) == shapes, name


@pytest.mark.parametrize("target", TARGETS)
def test_there_and_back(tmp_path: Path, peers: Any, source: Path, target: str) -> None:
    out, again = written(tmp_path, target), tmp_path / "again.pth"
    convert(source, target, out)
    assert len(inspect_file(out).formats) == 1
    convert(out, "torchvision", again)
    own = peers.resnet(0).state_dict()
    back = torch.load(again, weights_only=True)
    assert back.keys() == own.keys()
    for name, tensor in own.items():
        # numpy pickles hold no counters of batches
        assert torch.equal(back[name], tensor) or (target == "detectron2" and name.endswith("num_batches_tracked")), (
            name
        )


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_weights_give_the_same_file(tmp_path: Path, source: Path, target: str) -> None:
    one, two = tmp_path / "one" / "out.safetensors", tmp_path / "two" / "out.safetensors"
    for out in (one, two):
        out.parent.mkdir()
        convert(source, target, out)
    assert one.read_bytes() == two.read_bytes()


def test_torchvision_takes_it(tmp_path: Path, source: Path, images: Tensor) -> None:
    convert(source, "torchvision", tmp_path / "out.pth")
    model = torchvision.models.resnet18()
    missing, unexpected = model.load_state_dict(torch.load(tmp_path / "out.pth", weights_only=True), strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    model.fc = nn.Identity()
    with torch.no_grad():
        same(load_backbone(source).module, model.eval()(images), images)


def test_timm_takes_it(tmp_path: Path, source: Path, images: Tensor) -> None:
    timm = pytest.importorskip("timm")
    convert(source, "timm", tmp_path / "out.safetensors")
    model = timm.create_model("resnet18", num_classes=0, checkpoint_path=str(tmp_path / "out.safetensors")).eval()
    with torch.no_grad():
        same(load_backbone(source).module, model(images), images)


def test_transformers_takes_it(tmp_path: Path, source: Path, images: Tensor) -> None:
    transformers = pytest.importorskip("transformers")
    convert(source, "huggingface", tmp_path / "resnet")
    model = transformers.ResNetModel.from_pretrained(tmp_path / "resnet").eval()
    with torch.no_grad():
        same(load_backbone(source).module, model(images).pooler_output, images)
    processor = transformers.ConvNextImageProcessor.from_pretrained(tmp_path / "resnet")
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]


@pytest.mark.long
@pytest.mark.parametrize("stride_in_1x1", [False, True])
def test_detectron2_takes_it(tmp_path: Path, peers: Any, images: Tensor, stride_in_1x1: bool) -> None:
    from evaluate.detection import library

    try:
        library.load()
    except InputError as absent:
        pytest.skip(str(absent))
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.modeling.backbone.resnet import BasicStem, ResNet

    source = tmp_path / "r50.safetensors"
    trunk = peers.resnet(0, name="resnet50").state_dict()
    from pretrain.backbones.handover import BackboneMetadata, write_backbone

    write_backbone(source, trunk, BackboneMetadata(backbone="resnet50", method="x", stride_in_1x1=stride_in_1x1))
    out = tmp_path / "r50.pkl"
    convert(source, "detectron2", out)
    content = pickle.loads(out.read_bytes())
    assert content["matching_heuristics"] is True
    assert content["__author__"] == "fastmoco"
    stages = ResNet.make_default_stages(50, norm="BN", stride_in_1x1=stride_in_1x1)
    detector = peers.parts({"backbone": ResNet(BasicStem(3, 64, norm="BN"), stages, out_features=["res5"])})
    left = DetectionCheckpointer(detector, save_dir=str(tmp_path)).load(str(out))
    assert set(left) <= {"fastmoco", "__author__", "matching_heuristics"}
    statistics = detector.backbone.stem.conv1.norm.running_mean
    assert torch.equal(statistics, trunk["bn1.running_mean"])
    loaded = load_backbone(out)
    assert loaded.metadata.stride_in_1x1 == stride_in_1x1
    with torch.no_grad():
        same(loaded.module, detector.backbone.eval()(images)["res5"].mean((2, 3)), images)


def test_mmsegmentation_takes_it(tmp_path: Path, source: Path, images: Tensor) -> None:
    from evaluate.segmentation import library

    try:
        library.load()
    except InputError as absent:
        pytest.skip(str(absent))
    from mmengine.runner import load_checkpoint
    from mmseg.registry import MODELS

    convert(source, "mmseg", tmp_path / "out.pth")
    backbone = MODELS.build({"type": "ResNet", "depth": 18, "norm_cfg": {"type": "BN"}})
    segmentor = nn.Module()
    segmentor.backbone = backbone
    load_checkpoint(segmentor, str(tmp_path / "out.pth"), map_location="cpu", strict=True)
    backbone.eval()  # gives nothing back, unlike torch's own
    with torch.no_grad():
        same(load_backbone(source).module, backbone(images)[-1].mean((2, 3)), images)


def test_what_a_library_cannot_hold_is_refused(tmp_path: Path, peers: Any) -> None:
    def file(name: str, content: Any) -> Path:
        torch.save(content, tmp_path / name)
        return tmp_path / name

    resnet = peers.resnet(0)
    resnet.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    small = file("small.pth", resnet.state_dict())
    with pytest.raises(InputError, match="resnet18_cifar cannot become a timm file: its stem is 3x3"):
        convert(small, "timm", tmp_path / "out.safetensors")
    classifier = nn.Linear(512, 10)
    solo = file("solo.ckpt", peers.lightning(peers.parts({"backbone": resnet, "classifier": classifier})))
    with pytest.raises(InputError, match="2 pixels of padding around the stem, which torchvision's ResNet does not"):
        convert(solo, "torchvision", tmp_path / "out.pth")
    with pytest.raises(
        InputError, match="unknown conversion target 'keras'; available: detectron2, fastmoco, huggingface, mms"
    ):
        convert(small, "keras", tmp_path / "out.pth")
    assert not list(tmp_path.glob("out.*"))


def test_the_chosen_encoder_is_what_is_converted(tmp_path: Path, peers: Any) -> None:
    model = peers.parallel(peers.parts({"encoder_q": peers.resnet(0), "encoder_k": peers.resnet(1)}))
    path = tmp_path / "moco.pth"
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    for select, seed in ((None, 0), ("encoder_k", 1)):
        convert(path, "fastmoco", tmp_path / "out.safetensors", select=select)
        loaded = load_backbone(tmp_path / "out.safetensors")
        assert torch.equal(loaded.module.state_dict()["conv1.weight"], peers.resnet(seed).conv1.weight)
        assert loaded.metadata.parent_sha256 == inspect_file(path).sha256
        assert (loaded.metadata.method, loaded.metadata.epoch) == ("moco_v2", 3)
        assert loaded.metadata.prefix == f"state_dict/module.encoder_{'k' if select else 'q'}."
