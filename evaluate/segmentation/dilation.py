"""Strides and dilations of a torchvision ResNet, set in place: fewer pixels a step for the same weights."""

from __future__ import annotations

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from pretrain.backbones.registry import TorchvisionResNet


def can_dilate(module: nn.Module) -> bool:
    """Whether strides and dilations of the protocol apply: not to CIFAR stems, SAME padding and other families."""
    same_padding = any(child._forward_pre_hooks for child in module.modules())
    return isinstance(module, TorchvisionResNet) and module.conv1.stride == (2, 2) and not same_padding


def dilate(module: nn.Module, strides: tuple[int, ...], dilations: tuple[int, ...]) -> None:
    """Set strides and dilations of a torchvision ResNet's stages in place; weights stay as they are.

    The dilation of a stage's first block is half, since its input has not been thinned yet (Yu et al. 2017; so do
    torchvision's `replace_stride_with_dilation` and mmsegmentation's `contract_dilation`).
    """
    for index, (stride, dilation) in enumerate(zip(strides, dilations, strict=True), start=1):
        for position, block in enumerate(getattr(module, f"layer{index}")):
            assert isinstance(block, BasicBlock | Bottleneck)
            spread = block.conv2 if isinstance(block, Bottleneck) else block.conv1
            here = max(dilation // 2, 1) if position == 0 else dilation
            spread.dilation = spread.padding = (here, here)
            if position == 0 and block.downsample is not None:
                strided = next((conv for conv in (block.conv1, block.conv2) if conv.stride != (1, 1)), spread)
                strided.stride = block.downsample[0].stride = (stride, stride)
                block.stride = stride
