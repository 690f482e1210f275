"""What mmsegmentation lacks and our protocols need, put in its registry: a linear head, and trunks it has no name for.

Import it through `library.load`. Shapes: B batch, D width, K classes, H W size.
"""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from evaluate.segmentation.dilation import can_dilate, dilate
from pretrain.backbones import registry


@MODELS.register_module(name="FastMocoLinearHead")
class LinearHead(BaseDecodeHead):
    """Batch norm and a 1x1 convolution on one feature map: the linear probe of DINOv2's segmentation."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        assert self.channels == self.in_channels
        self.norm = nn.BatchNorm2d(self.in_channels)

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Maps of the stages -> (B, K, H, W) logits at the size of the chosen one."""
        return self.cls_seg(self.norm(self._transform_inputs(inputs)))


@MODELS.register_module(name="FastMocoTrunk")
class Trunk(BaseModule):
    """A backbone of `pretrain.backbones.registry` that mmsegmentation has no class for.

    So wide ResNets, CIFAR stems, SAME padding and timm's convolutional networks can stand under any head. The first
    get the protocol's strides and dilations (`layout`); the others keep their own.
    """

    def __init__(
        self,
        name: str,
        layout: tuple[tuple[int, ...], tuple[int, ...]],
        padding: str = "symmetric",
        stride_in_1x1: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.net = registry.build(name, padding=padding, stride_in_1x1=stride_in_1x1)
        if can_dilate(self.net):
            dilate(self.net, *layout)
        self.frozen = frozen
        self.net.requires_grad_(not frozen)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> the map of each stage, finest first."""
        return self.net.maps(images)

    def train(self, mode: bool = True) -> Trunk:
        """A frozen trunk stays in eval mode, so that batch norm neither uses nor moves its statistics by the batch."""
        super().train(mode and not self.frozen)
        return self
