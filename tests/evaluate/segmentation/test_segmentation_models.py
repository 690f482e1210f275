"""The trunk in the segmentor is the checkpoint: tensors, feature maps, normalisation; and it cannot have a V1c stem."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet50

from evaluate.checkpoints.load import LoadedBackbone, load_backbone
from evaluate.protocols.segmentation import PROTOCOLS
from evaluate.segmentation import models
from evaluate.segmentation.dilation import can_dilate, dilate
from evaluate.segmentation.geometry import Geometry
from pretrain.backbones import registry
from pretrain.backbones.handover import BackboneMetadata, Normalization, read_backbone, write_backbone
from pretrain.runtime.errors import InputError

FCN = PROTOCOLS["voc12aug_fcn_20k"]


def lively(backbone: LoadedBackbone) -> LoadedBackbone:
    """Batch norm statistics that are not 0 and 1, so that leaving them behind would show."""
    generator = torch.Generator().manual_seed(5)
    for module in backbone.module.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.1, generator=generator)
    return backbone


def built(ref: str, protocol: Any = FCN) -> tuple[Any, LoadedBackbone]:
    backbone = lively(load_backbone(f"random:{ref}", seed=1))
    return models.build(backbone, protocol, Geometry.of(protocol, 64), 4, seed=0), backbone


def test_undilated_trunk_gives_the_checkpoints_own_maps_to_the_bit():
    protocol = FCN.override({"strides": [1, 2, 2, 2], "dilations": [1, 1, 1, 1]})
    for ref in ("resnet18", "resnet50"):
        segmentor, backbone = built(ref, protocol)
        assert type(segmentor.backbone).__name__ == "ResNet"
        images = torch.randn(2, 3, 70, 90, generator=torch.Generator().manual_seed(2))
        with torch.no_grad():
            maps = segmentor.eval().backbone(images)
            for theirs, ours in zip(maps, backbone.module.maps(images), strict=True):
                assert torch.equal(theirs, ours)


def test_dilation_is_torchvisions():
    torch.manual_seed(0)
    theirs = resnet50(replace_stride_with_dilation=[False, True, True]).eval()
    ours = registry.build("resnet50").eval()
    ours.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    dilate(ours, (1, 2, 1, 1), (1, 1, 2, 4))
    images = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        x = theirs.layer2(theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(images))))))
        expected = theirs.layer4(theirs.layer3(x))
        assert torch.equal(ours.maps(images)[-1], expected)
    assert expected.shape[2:] == (12, 8)


@pytest.mark.parametrize(
    ("ref", "kind", "side"),
    [
        ("resnet18", "ResNet", 16),
        pytest.param("resnet50x2", "ResNet", 16, marks=pytest.mark.long),
        ("resnext50_32x4d", "ResNeXt", 16),
        ("wide_resnet50_2", "Trunk", 16),
        ("resnet18_cifar", "Trunk", 16),
        ("cifar_resnet20", "Trunk", 32),
    ],
)
def test_every_family_stands_under_a_head_with_all_its_tensors(ref: str, kind: str, side: int):
    segmentor, backbone = built(ref)
    assert type(segmentor.backbone).__name__ == kind
    named = {n.removeprefix("net."): t for n, t in segmentor.backbone.state_dict().items()}
    assert named.keys() == backbone.module.state_dict().keys()
    assert all(torch.equal(t, backbone.module.state_dict()[n]) for n, t in named.items())
    with torch.no_grad():
        assert segmentor.eval().backbone(torch.zeros(1, 3, 128, 128))[-1].shape[2:] == (side, side)


def test_caffe_strides_and_same_padding_survive():
    strided = registry.build("resnet50", stride_in_1x1=True).eval()
    metadata = BackboneMetadata(backbone="resnet50", method="test", stride_in_1x1=True)
    loaded = lively(LoadedBackbone(strided, metadata, "x", "0" * 64, "test"))
    segmentor = models.build(loaded, FCN, Geometry.of(FCN, 64), 4, seed=0)
    assert segmentor.backbone.layer2[0].conv1.stride == (2, 2)
    same = registry.build("resnet50", padding="same").eval()
    metadata = BackboneMetadata(backbone="resnet50", method="test", padding="same")
    segmentor = models.build(
        LoadedBackbone(same, metadata, "x", "0" * 64, "test"), FCN, Geometry.of(FCN, 64), 4, seed=0
    )
    assert type(segmentor.backbone).__name__ == "Trunk"
    assert not can_dilate(segmentor.backbone.net)


def test_a_trunk_that_is_not_the_checkpoint_is_found_out():
    segmentor, backbone = built("resnet18")
    reference = models.dilated(backbone.module, FCN)
    models.compare_trunk(segmentor, backbone.module, reference)
    moved = copy.deepcopy(segmentor)
    moved.backbone.layer3[0].bn1.running_mean[0] += 1e-3
    with pytest.raises(AssertionError, match=r"layer3\.0\.bn1\.running_mean"):
        models.compare_trunk(moved, backbone.module, reference)
    wrong = models.dilated(backbone.module, FCN.override({"dilations": [1, 1, 1, 1]}))
    with pytest.raises(AssertionError, match="map of stage 3 differs"):
        models.compare_trunk(segmentor, backbone.module, wrong)


def test_a_stem_of_three_convolutions_is_impossible(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(models._RESNETS, "resnet18", {"type": "ResNetV1c", "depth": 18})
    with pytest.raises(AssertionError, match="V1c"):
        built("resnet18")
    monkeypatch.setitem(models._RESNETS, "resnet18", {"type": "ResNet", "depth": 18, "deep_stem": True})
    with pytest.raises(AssertionError, match="V1c"):
        built("resnet18")


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_pixels_are_normalised_as_the_checkpoint_says(tmp_path: Path, channels: str):
    normalization = Normalization(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.2), channels=channels)
    module = registry.build("cifar_resnet20")
    metadata = BackboneMetadata(backbone="cifar_resnet20", method="test", normalization=normalization)
    write_backbone(tmp_path / "b.safetensors", module.state_dict(), metadata)
    assert read_backbone(tmp_path / "b.safetensors")[1].normalization == normalization
    loaded = load_backbone(tmp_path / "b.safetensors")
    segmentor = models.build(loaded, FCN, Geometry.of(FCN, 64), 4, seed=0)
    rgb = torch.tensor([10.0, 100.0, 200.0])
    bgr = rgb.flip(0).view(3, 1, 1).expand(3, 4, 4).to(torch.uint8)
    out = segmentor.data_preprocessor({"inputs": [bgr]}, False)["inputs"][0, :, 0, 0]
    ordered = rgb if channels == "RGB" else rgb.flip(0)
    assert torch.allclose(out, (ordered / 255 - torch.tensor([0.1, 0.2, 0.3])) / torch.tensor([0.5, 0.25, 0.2]))


def test_heads_are_drawn_from_the_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    backbone = load_backbone("random:cifar_resnet20")
    geometry = Geometry.of(FCN, 64)
    one, again, other = (models.build(backbone, FCN, geometry, 4, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["decode_head.conv_seg.weight"], other["decode_head.conv_seg.weight"])


def test_the_linear_probe_trains_batch_norm_and_one_convolution_alone():
    protocol = PROTOCOLS["linear"]
    for ref in ("resnet18", "cifar_resnet20"):
        segmentor, _ = built(ref, protocol)
        trained = sorted(name for name, p in segmentor.named_parameters() if p.requires_grad)
        assert trained == [
            f"decode_head.{layer}.{part}" for layer in ("conv_seg", "norm") for part in ("bias", "weight")
        ]
        segmentor.train()
        norms = [m for m in segmentor.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        assert norms
        assert not any(norm.training for norm in norms)


def test_a_backbone_with_one_map_is_told_to_use_the_linear_protocol():
    pytest.importorskip("timm")
    backbone = load_backbone("random:timm:vit_tiny_patch16_224")
    with pytest.raises(InputError, match=r"gives 1 feature map.*the linear protocol needs one"):
        models.build(backbone, FCN, Geometry.of(FCN, 64), 4, seed=0)
    linear = PROTOCOLS["linear"]
    assert models.build(backbone, linear, Geometry.of(linear, 64), 4, seed=0).decode_head.in_channels == 192
