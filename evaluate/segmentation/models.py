"""A protocol and a backbone as an mmsegmentation model: configured in code, filled, and compared with the checkpoint.

Shapes: B batch, D width, K classes, H W size.
"""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from evaluate.checkpoints.load import LoadedBackbone
from evaluate.protocols.segmentor import SegmentationProtocol
from evaluate.segmentation.dilation import can_dilate, dilate
from evaluate.segmentation.geometry import Geometry
from evaluate.segmentation.library import load, quiet
from pretrain.backbones.handover import BackboneMetadata, Normalization
from pretrain.backbones.registry import Backbone
from pretrain.data.readers.masks import IGNORE
from pretrain.runtime.errors import InputError

if TYPE_CHECKING:
    from mmseg.models.segmentors import EncoderDecoder

log = logging.getLogger("fastmoco")

# Backbones that mmsegmentation's own ResNet classes can express, with what they need besides the protocol's strides.
_RESNETS: dict[str, dict[str, Any]] = {
    **{f"resnet{depth}": {"type": "ResNet", "depth": depth} for depth in (18, 34, 50, 101, 152)},
    "resnet50x2": {"type": "ResNet", "depth": 50, "stem_channels": 128, "base_channels": 128},
    "resnet50x4": {"type": "ResNet", "depth": 50, "stem_channels": 256, "base_channels": 256},
    "resnext50_32x4d": {"type": "ResNeXt", "depth": 50, "groups": 32, "base_width": 4},
    "resnext101_32x8d": {"type": "ResNeXt", "depth": 101, "groups": 32, "base_width": 8},
}
# A fixed input on which trunk and checkpoint must give the same maps; large enough for a 4x4 map at stride 32.
_PROBE_SIZE = 128


def build(
    backbone: LoadedBackbone, protocol: SegmentationProtocol, geometry: Geometry, num_classes: int, seed: int
) -> EncoderDecoder:
    """The segmentor on the CPU, in training mode: heads drawn from `seed`, the trunk from the checkpoint, and compared.

    Raises:
        InputError: the backbone gives no feature maps, or fewer than the head needs.
    """
    load()
    from mmengine.config import ConfigDict
    from mmseg.registry import MODELS

    reference = dilated(backbone.module, protocol)
    if not can_dilate(reference):
        log.info(
            "backbone %s keeps its own strides: those of %s are for torchvision's ResNets",
            *(backbone.metadata.backbone, protocol.name),
        )
    with torch.no_grad():
        widths = [out.shape[1] for out in reference.maps(_probe())]
    if len(widths) < (2 if protocol.aux_weight or protocol.head in ("deeplabv3plus", "upernet") else 1):
        raise InputError(
            f"backbone '{backbone.metadata.backbone}' gives {len(widths)} feature map, and protocol '{protocol.name}' "
            "needs more; the linear protocol needs one"
        )
    config = segmentor_config(protocol, geometry, backbone.metadata, widths, num_classes)
    with torch.random.fork_rng(devices=[]), quiet():
        torch.manual_seed(seed)
        segmentor = MODELS.build(ConfigDict(config))
        segmentor.init_weights()
    # Strict: nothing of the checkpoint may be missing or left over.
    segmentor.backbone.load_state_dict(expected_trunk(segmentor, backbone.module))
    compare_trunk(segmentor, backbone.module, reference)
    return segmentor.train()


def config_text(backbone: LoadedBackbone, protocol: SegmentationProtocol, geometry: Geometry, num_classes: int) -> str:
    """The model that `build` makes and the pictures it takes, as the text of an mmengine config file."""
    from mmengine.config import Config

    with torch.no_grad():
        widths = [out.shape[1] for out in backbone.module.maps(_probe())]
    resize = [{"type": "Resize", "scale": geometry.test_scale, "keep_ratio": True}] if geometry.test_scale else []
    return Config(
        {
            "default_scope": "mmseg",
            "custom_imports": {"imports": ["evaluate.segmentation.heads"], "allow_failed_imports": False},
            "model": segmentor_config(protocol, geometry, backbone.metadata, widths, num_classes),
            "test_pipeline": [{"type": "LoadImageFromFile"}, *resize, {"type": "PackSegInputs"}],
        }
    ).pretty_text


def segmentor_config(
    protocol: SegmentationProtocol,
    geometry: Geometry,
    metadata: BackboneMetadata,
    widths: list[int],
    num_classes: int,
) -> dict[str, Any]:
    """mmsegmentation's config of the model, as a dict; `widths`: channels of the trunk's maps, finest first.

    Batch norm is written as `BN`: where there are several processes the caller makes it cross-rank afterwards, which
    works on processors too, where mmcv's `SyncBN` does not.
    """
    quarter = 4 if widths[-1] <= 512 else 1
    shared = {
        "num_classes": num_classes,
        "dropout_ratio": protocol.dropout,
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "align_corners": protocol.align_corners,
        "ignore_index": IGNORE,
    }
    last = {"in_channels": widths[-1], "in_index": len(widths) - 1}
    channels = protocol.head_channels // quarter
    heads: dict[str, dict[str, Any]] = {
        "fcn": {
            "type": "FCNHead",
            **last,
            "channels": channels,
            "num_convs": protocol.head_convs,
            "dilation": protocol.head_dilation,
            "concat_input": protocol.head_concat,
        },
        "deeplabv3plus": {
            "type": "DepthwiseSeparableASPPHead",
            **last,
            "channels": channels,
            "dilations": (1, 12, 24, 36),
            "c1_in_channels": widths[0],
            "c1_channels": 48 // quarter,
        },
        "upernet": {
            "type": "UPerHead",
            "in_channels": widths,
            "in_index": list(range(len(widths))),
            "pool_scales": (1, 2, 3, 6),
            "channels": protocol.head_channels,
        },
        "linear": {"type": "FastMocoLinearHead", **last, "channels": widths[-1]},
    }
    auxiliary = {
        "type": "FCNHead",
        "in_channels": widths[-2] if len(widths) > 1 else widths[-1],
        "in_index": max(len(widths) - 2, 0),
        "channels": protocol.aux_channels // (quarter if protocol.head != "upernet" else 1),
        "num_convs": 1,
        "concat_input": False,
    }
    test_cfg: dict[str, Any] = {"mode": protocol.test_mode}
    if protocol.test_mode == "slide":
        test_cfg |= {"crop_size": (geometry.crop,) * 2, "stride": (geometry.slide_stride,) * 2}
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": preprocessor_config(metadata.normalization, geometry.crop),
        "backbone": trunk_config(metadata, protocol),
        "decode_head": {**heads[protocol.head], **shared, "loss_decode": _cross_entropy(1.0)},
        "auxiliary_head": (
            {**auxiliary, **shared, "loss_decode": _cross_entropy(protocol.aux_weight)} if protocol.aux_weight else None
        ),
        "train_cfg": {},
        "test_cfg": test_cfg,
    }


def trunk_config(metadata: BackboneMetadata, protocol: SegmentationProtocol) -> dict[str, Any]:
    """The trunk's part of the config: mmsegmentation's plain ResNet, or our own trunk for what it cannot express."""
    frozen = protocol.trunk == "frozen"
    if metadata.backbone not in _RESNETS or metadata.padding != "symmetric":
        trunk = {"type": "FastMocoTrunk", "name": metadata.backbone, "frozen": frozen}
        return trunk | {
            "padding": metadata.padding,
            "stride_in_1x1": metadata.stride_in_1x1,
            "layout": _layout(protocol),
        }
    config = {
        **_RESNETS[metadata.backbone],
        "num_stages": 4,
        "out_indices": (0, 1, 2, 3),
        "strides": protocol.strides,
        "dilations": protocol.dilations,
        "contract_dilation": True,
        "style": "caffe" if metadata.stride_in_1x1 else "pytorch",
        "norm_cfg": {"type": "BN", "requires_grad": True},
        "norm_eval": False,
        "frozen_stages": 4 if frozen else -1,
        # What init_weights would draw here is replaced by the checkpoint at once.
        "init_cfg": None,
    }
    assert config["type"] in ("ResNet", "ResNeXt"), "a V1c or V1d stem has no counterpart in the checkpoint"
    return config


def preprocessor_config(normalization: Normalization, crop: int) -> dict[str, Any]:
    """mmsegmentation's normalisation and padding from the checkpoint's; images come in as BGR, as mmcv reads them."""
    return {
        "type": "mmseg.SegDataPreProcessor",
        "mean": [255 * value for value in normalization.mean],
        "std": [255 * value for value in normalization.std],
        "bgr_to_rgb": normalization.channels == "RGB",
        "pad_val": 0,
        "seg_pad_val": IGNORE,
        "size": (crop, crop),
    }


def expected_trunk(segmentor: EncoderDecoder, module: Backbone) -> dict[str, Tensor]:
    """The checkpoint's tensors under the names that the segmentor's trunk has for them."""
    from evaluate.checkpoints.export import to_mmseg
    from evaluate.segmentation.heads import Trunk

    if isinstance(segmentor.backbone, Trunk):
        return {f"net.{name}": tensor for name, tensor in module.state_dict().items()}
    assert not segmentor.backbone.deep_stem, "a V1c or V1d stem has no counterpart in the checkpoint"
    return {name.removeprefix("backbone."): t for name, t in to_mmseg(module.state_dict())["state_dict"].items()}


@torch.no_grad()
def compare_trunk(segmentor: EncoderDecoder, module: Backbone, reference: Backbone) -> None:
    """Prove that the segmentor's trunk is the checkpoint: tensor by tensor, then feature map by feature map.

    Args:
        segmentor: its trunk is compared, on the CPU.
        module: the checkpoint's backbone.
        reference: the same with the protocol's strides and dilations, by code that shares nothing with mmsegmentation.
    """
    trunk, expected = segmentor.backbone.state_dict(), expected_trunk(segmentor, module)
    assert trunk.keys() == expected.keys(), f"trunk and checkpoint differ in {sorted(trunk.keys() ^ expected.keys())}"
    for name, tensor in trunk.items():
        assert torch.equal(tensor, expected[name]), f"trunk tensor '{name}' is not the checkpoint's"
    trained = segmentor.training
    segmentor.eval()
    maps = segmentor.backbone(_probe())
    segmentor.train(trained)
    for stage, (there_map, here_map) in enumerate(zip(maps, reference.maps(_probe()), strict=True), start=1):
        assert there_map.shape == here_map.shape, f"map of stage {stage}: {there_map.shape}, expected {here_map.shape}"
        worst = (there_map - here_map).abs().max() / here_map.abs().max().clamp(min=1e-12)
        assert worst < 1e-4, f"map of stage {stage} differs from the checkpoint's by {worst:.2g} of its largest value"


def dilated(module: Backbone, protocol: SegmentationProtocol) -> Backbone:
    """A copy of a torchvision ResNet with the protocol's strides and dilations; other backbones as they are."""
    module = copy.deepcopy(module).eval()
    if can_dilate(module):
        dilate(module, *_layout(protocol))
    return module


def _layout(protocol: SegmentationProtocol) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return protocol.strides, protocol.dilations


def _cross_entropy(weight: float) -> dict[str, Any]:
    return {"type": "CrossEntropyLoss", "use_sigmoid": False, "loss_weight": weight}


def _probe() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, _PROBE_SIZE, _PROBE_SIZE, generator=generator)
