"""The trunk in the detector is the checkpoint's: tensor by tensor, map by map, or the detector is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from evaluate.checkpoints.load import LoadedBackbone
from evaluate.protocols.detection import PROTOCOLS
from pretrain.backbones import registry
from pretrain.backbones.handover import BackboneMetadata, Normalization
from pretrain.runtime.errors import InputError


def stirred(name: str, **options: Any) -> LoadedBackbone:
    """A backbone whose norm layers hold statistics and scales of their own, as after training."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = registry.build(name, **options)
        for layer in module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, 0, 0.3)
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.normal_(0, 0.3)
                layer.running_var.uniform_(0.5, 1.5)
    metadata = BackboneMetadata(
        backbone=name,
        method="test",
        stride_in_1x1=options.get("stride_in_1x1", False),
        normalization=Normalization(mean=(0.4, 0.45, 0.5), std=(0.2, 0.25, 0.3), channels="BGR"),
    )
    return LoadedBackbone(module.eval().requires_grad_(False), metadata, f"{name}.pth", "0" * 64, "test")


def build(protocol: str, backbone: LoadedBackbone, metadata: BackboneMetadata | None = None) -> nn.Module:
    from evaluate.detection.config import detectron2_config
    from evaluate.detection.detector import build_detector

    cfg = detectron2_config(PROTOCOLS[protocol], metadata or backbone.metadata, 5)
    return build_detector(cfg, backbone, seed=0)


@pytest.mark.parametrize(
    ("protocol", "name", "tensors"),
    [
        ("smoke_r18_c4", "resnet18", 100),
        ("smoke_r18_fpn", "resnet18", 100),
        ("coco_r34_c4_1x", "resnet34", 180),
        ("voc0712_r50_c4_24k", "resnet50", 265),
        ("coco_r50_retinanet_1x", "resnet50", 265),
    ],
)
def test_every_tensor_is_the_checkpoints(protocol: str, name: str, tensors: int) -> None:
    """5 tensors a convolution with its norm layer: 20, 36 and 53 of them."""
    from evaluate.detection.detector import trunk_tensors

    backbone = stirred(name)
    found = trunk_tensors(build(protocol, backbone))
    assert len(found) == tensors
    ours = backbone.module.state_dict()
    assert torch.equal(found["stem.conv1.weight"], ours["conv1.weight"])
    assert torch.equal(found["stem.conv1.norm.running_var"], ours["bn1.running_var"])
    assert torch.equal(found["res3.0.shortcut.weight"], ours["layer2.0.downsample.0.weight"])
    assert torch.equal(found["res5.1.conv2.norm.bias"], ours["layer4.1.bn2.bias"])


def test_strides_follow_the_checkpoint() -> None:
    """Weights that need the stride on the first convolution compute the same maps, and only with it."""
    backbone = stirred("resnet50", stride_in_1x1=True)
    build("voc0712_r50_c4_24k", backbone)
    wrong = backbone.metadata.model_copy(update={"stride_in_1x1": False})
    with pytest.raises(InputError, match=r"map of stage 2 differs from the backbone's"):
        build("voc0712_r50_c4_24k", backbone, wrong)


def test_normalisation_follows_the_checkpoint() -> None:
    backbone = stirred("resnet18")
    wrong = backbone.metadata.model_copy(update={"normalization": Normalization()})
    with pytest.raises(InputError, match=r"map of stage 1 differs .* normalisation are not the checkpoint's"):
        build("smoke_r18_c4", backbone, wrong)


def test_a_missing_tensor_is_refused() -> None:
    from evaluate.detection.config import detectron2_config
    from evaluate.detection.detector import build_detector, load_trunk

    backbone = stirred("resnet18")
    detector = build_detector(detectron2_config(PROTOCOLS["smoke_r18_c4"], backbone.metadata, 5), backbone, seed=0)
    module = registry.build("resnet18")
    del module.layer3[1]
    with pytest.raises(InputError, match=r"missing from the checkpoint: res4.1.conv1.norm.bias, .*"):
        load_trunk(detector, replace(backbone, module=module))


@pytest.mark.parametrize(
    ("protocol", "name", "said"),
    [
        ("voc0712_r50_c4_24k", "resnet18", "holds a resnet18, but protocol 'voc0712_r50_c4_24k' trains a resnet50"),
        ("smoke_r18_c4", "cifar_resnet20", "holds a cifar_resnet20, but protocol 'smoke_r18_c4' trains a resnet18"),
    ],
)
def test_another_architecture_is_refused(protocol: str, name: str, said: str) -> None:
    from evaluate.detection.config import check_backbone

    with pytest.raises(InputError, match=said):
        check_backbone(PROTOCOLS[protocol], stirred(name).metadata, "their.pth")


def test_other_padding_is_refused() -> None:
    from evaluate.detection.config import check_backbone

    metadata = BackboneMetadata(backbone="resnet50", method="byol", padding="same")
    with pytest.raises(InputError, match="needs 'same' padding"):
        check_backbone(PROTOCOLS["voc0712_r50_c4_24k"], metadata, "byol.npz")


def test_the_extra_norm_stands_after_res5_and_is_no_part_of_the_trunk() -> None:
    detector: Any = build("smoke_r18_c4", stirred("resnet18"))
    names = [name for name, _ in detector.roi_heads.res5.named_children()]
    assert names == ["0", "1", "norm"]
    assert torch.equal(detector.roi_heads.res5.norm.weight, torch.ones(512))


def test_heads_come_from_the_seed_and_nothing_else() -> None:
    backbone = stirred("resnet18")
    states = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        states.append(build("smoke_r18_c4", backbone).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
