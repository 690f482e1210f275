"""The C4 head of the self-supervised papers: res5 of the backbone's own kind of block, and a norm layer after it."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import get_norm
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock, ResNet
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsOfTrunk(Res5ROIHeads):
    """detectron2's Res5ROIHeads for any ResNet: its own builds res5 of bottlenecks alone, not basic blocks."""

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        resnets = cfg.MODEL.RESNETS
        channels = resnets.RES2_OUT_CHANNELS * 8  # three stages on, each twice as wide
        options: dict[str, Any] = {"in_channels": channels // 2, "out_channels": channels, "norm": resnets.NORM}
        if resnets.DEPTH in (18, 34):
            block, count = BasicBlock, {18: 2, 34: 3}[resnets.DEPTH]
        else:
            block, count = BottleneckBlock, 3
            options |= {
                "bottleneck_channels": resnets.NUM_GROUPS * resnets.WIDTH_PER_GROUP * 8,
                "num_groups": resnets.NUM_GROUPS,
                "stride_in_1x1": resnets.STRIDE_IN_1X1,
            }
        strides = [2] + [1] * (count - 1)
        blocks = ResNet.make_stage(block, count, stride_per_block=strides, **options)
        return nn.Sequential(*blocks), channels


@ROI_HEADS_REGISTRY.register()
class Res5ROIHeadsExtraNorm(Res5ROIHeadsOfTrunk):
    """With a norm layer after res5 (He et al. 2020, MoCo, appendix A.2): scales suit a fresh head."""

    @classmethod
    def _build_res5_block(cls, cfg: CfgNode) -> tuple[nn.Sequential, int]:
        res5, channels = super()._build_res5_block(cfg)
        res5.add_module("norm", get_norm(cfg.MODEL.RESNETS.NORM, channels))
        return res5, channels
