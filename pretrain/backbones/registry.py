"""Backbones by name: torchvision ResNets, CIFAR ResNets, and timm for the rest. No backbone has a head."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from pretrain.backbones.contract import Backbone
from pretrain.backbones.resnets import CifarResNet, TorchvisionResNet, WideResNet
from pretrain.backbones.small_maps import spare_padding
from pretrain.backbones.timm_models import TimmBackbone
from pretrain.backbones.variants import move_stride, pad_same, pad_stem
from pretrain.runtime.errors import InputError, unknown

__all__ = [
    "Backbone",
    "CifarResNet",
    "TimmBackbone",
    "TorchvisionResNet",
    "build",
    "fingerprint",
    "names",
    "num_parameters",
]

_RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int], dict[str, Any]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2], {}),
    "resnet34": (BasicBlock, [3, 4, 6, 3], {}),
    "resnet50": (Bottleneck, [3, 4, 6, 3], {}),
    "resnet101": (Bottleneck, [3, 4, 23, 3], {}),
    "resnet152": (Bottleneck, [3, 8, 36, 3], {}),
    "resnet200": (Bottleneck, [3, 24, 36, 3], {}),
    # x2, x3 ...: every width times 2, 3 ... (SimCLR, BYOL, SwAV), which is not torchvision's wide_resnet50_2.
    "resnet50x2": (Bottleneck, [3, 4, 6, 3], {"widen": 2}),
    "resnet50x3": (Bottleneck, [3, 4, 6, 3], {"widen": 3}),
    "resnet50x4": (Bottleneck, [3, 4, 6, 3], {"widen": 4}),
    "resnet50x5": (Bottleneck, [3, 4, 6, 3], {"widen": 5}),
    "resnet101x2": (Bottleneck, [3, 4, 23, 3], {"widen": 2}),
    "resnet152x2": (Bottleneck, [3, 8, 36, 3], {"widen": 2}),
    "resnet200x2": (Bottleneck, [3, 24, 36, 3], {"widen": 2}),
    "wide_resnet50_2": (Bottleneck, [3, 4, 6, 3], {"width_per_group": 128}),
    "wide_resnet101_2": (Bottleneck, [3, 4, 23, 3], {"width_per_group": 128}),
    "resnext50_32x4d": (Bottleneck, [3, 4, 6, 3], {"groups": 32, "width_per_group": 4}),
    "resnext101_32x8d": (Bottleneck, [3, 4, 23, 3], {"groups": 32, "width_per_group": 8}),
    "resnet18_cifar": (BasicBlock, [2, 2, 2, 2], {"small_stem": True}),
    "resnet34_cifar": (BasicBlock, [3, 4, 6, 3], {"small_stem": True}),
    "resnet50_cifar": (Bottleneck, [3, 4, 6, 3], {"small_stem": True}),
}
_CIFAR_DEPTHS = (20, 32, 44, 56)


def names() -> list[str]:
    """Every name `build` knows; any timm model goes as `timm:MODEL` besides."""
    return [*_RESNETS, *(f"cifar_resnet{d}{s}" for d in _CIFAR_DEPTHS for s in ("", "_b"))]


def build(
    name: str,
    *,
    zero_init_residual: bool = False,
    norm_layer: Callable[..., nn.Module] | None = None,
    padding: str = "symmetric",
    stride_in_1x1: bool = False,
) -> Backbone:
    """A freshly initialised backbone, in training mode.

    Args:
        name: one of `names()`, or `timm:MODEL`. `cifar_resnet20` has option A shortcuts, `cifar_resnet20_b` option B.
        zero_init_residual: start each residual branch at zero (Goyal et al. 2017, section 5.1).
        norm_layer: makes a norm layer from its width; batch norm when not given.
        padding: "same" pads as TensorFlow and JAX do at stride 2 (BYOL's files need it), "symmetric" as torch does;
            "wide_stem" puts 2 pixels around a 3x3 stem (solo-learn's files of CIFAR, solo/methods/base.py).
        stride_in_1x1: put a bottleneck's stride on its first 1x1 convolution (MSRA's original files).

    Raises:
        InputError: no such backbone, or an option that the backbone does not have.
    """
    if padding not in ("symmetric", "same", "wide_stem"):
        raise InputError(f"padding is '{padding}', expected 'symmetric', 'same' or 'wide_stem'")
    if name.startswith("timm:"):
        if zero_init_residual or norm_layer is not None or padding != "symmetric" or stride_in_1x1:
            raise InputError(f"backbone '{name}' takes no zero_init_residual, norm_layer, padding or stride_in_1x1")
        return TimmBackbone(name)
    if name not in names():
        raise unknown("backbone", name, [*names(), "timm:MODEL"])
    options: dict[str, Any] = {"zero_init_residual": zero_init_residual, "norm_layer": norm_layer}
    backbone: Backbone
    if name.startswith("cifar_"):
        stem, _, option = name.removeprefix("cifar_resnet").partition("_")
        backbone = CifarResNet(name, int(stem), option="B" if option else "A", **options)
    else:
        block, layers, extra = _RESNETS[name]
        backbone = (WideResNet if "widen" in extra else TorchvisionResNet)(name, block, layers, **extra, **options)
    if stride_in_1x1:
        move_stride(backbone)
    if padding == "same":
        pad_same(backbone)
    elif padding == "wide_stem":
        pad_stem(backbone)
    spare_padding(backbone)
    return backbone


def num_parameters(module: nn.Module) -> int:
    """How many trainable and frozen numbers the module holds, buffers left out."""
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def fingerprint(module: nn.Module) -> str:
    """Hexadecimal SHA-256 over the names, shapes and bits of all parameters and buffers: what a frozen trunk keeps."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
