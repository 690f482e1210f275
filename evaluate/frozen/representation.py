"""What a probe sees of an image: the pooled output, or more of the last layers.

Shapes: B batch, C channels, H W size, D feature width, T tokens.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.backbones.registry import Backbone, TimmBackbone
from pretrain.runtime.errors import InputError

MOST_AT_ONCE = 128
PIXELS_IN_CACHE = 1 << 16


def has_tokens(backbone: Backbone) -> bool:
    """Whether it is a ViT of timm's: blocks that give tokens."""
    return isinstance(backbone, TimmBackbone) and hasattr(backbone.model, "blocks")


def images_at_once(device: torch.device, side_px: int) -> int:
    """How many images pass a frozen backbone together: on a CPU so few that a layer's output stays in its cache.

    A CIFAR ResNet-20 takes 2.8 ms an image of 64 pixels for 16 at a time, and 4.7 ms for 128 (Zen 5, one thread).
    """
    return MOST_AT_ONCE if device.type != "cpu" else min(MOST_AT_ONCE, max(4, PIXELS_IN_CACHE // side_px**2))


def laid_out(backbone: Backbone, device: torch.device) -> Backbone:
    """The backbone on the device, in eval mode: on a CPU itself, its kernels laid out channels last, else a copy.

    The values stay; convolutions take two thirds of the time on a CPU that way.
    """
    if device.type == "cpu":
        return backbone.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    return copy.deepcopy(backbone).to(device).eval()


def laid_out_images(images: Tensor) -> Tensor:
    """(B, C, H, W), laid out as a backbone's kernels on that device are: channels last on a CPU, else untouched."""
    return images.contiguous(memory_format=torch.channels_last) if images.device.type == "cpu" else images


def represent(backbone: Backbone, images: Tensor, *, layers: int = 1, patch_average: bool = False) -> Tensor:
    """(B, C, H, W) -> (B, D'), features of the last `layers` stages or blocks, concatenated, last one last.

    One layer without patch average is the backbone's own pooled output. A ResNet gives each stage's average-pooled
    map; a ViT each block's normalised class token (DINO, appendix F.2: the last 4) and, with `patch_average`, the mean
    of the last block's patch tokens (DINOv2, eval/linear.py `create_linear_input`).

    Raises:
        InputError: more layers than the backbone has, or `patch_average` of a backbone without patch tokens.
    """
    return represent_many(backbone, images, [(layers, patch_average)])[0]


def pooled_in_windows(backbone: Backbone, images: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, D * windows): the last map averaged over side x side windows at stride 1.

    Channel by channel, and in each the windows row by row, as `AvgPool2d` and a reshape give them.

    Raises:
        InputError: the map is smaller than a window, or the backbone has tokens and no maps.
    """
    if has_tokens(backbone):
        raise InputError(f"pool_px is {side}, but '{backbone.name}' has no feature maps to pool: expected pool_px null")
    last = backbone.maps(laid_out_images(images))[-1]
    if min(last.shape[2:]) < side:
        height, width = last.shape[2:]
        raise InputError(
            f"pool_px is {side}, but the last map of '{backbone.name}' is {height}x{width} for these images: expected "
            "a smaller pool_px, or null for the backbone's own pooled output"
        )
    return F.avg_pool2d(last, side, stride=1).flatten(1)


def represent_many(backbone: Backbone, images: Tensor, wanted: list[tuple[int, bool]]) -> list[Tensor]:
    """`represent` for several (layers, patch_average) at once, from one forward pass."""
    images = laid_out_images(images)
    if wanted == [(1, False)]:
        return [backbone(images)]
    deepest = max(layers for layers, _average in wanted)
    if has_tokens(backbone):
        return _of_tokens(backbone, images, wanted, deepest)
    if any(average for _layers, average in wanted):
        raise InputError(f"patch_average needs a backbone with patch tokens (a ViT); '{backbone.name}' has none")
    maps = backbone.maps(images)
    _check_layers(deepest, len(maps), backbone.name)
    pooled = [stage.mean(dim=(2, 3)) for stage in maps[-deepest:]]
    return [torch.cat(pooled[-layers:], dim=1) for layers, _average in wanted]


def _of_tokens(backbone: Backbone, images: Tensor, wanted: list[tuple[int, bool]], deepest: int) -> list[Tensor]:
    model: Any = backbone.model
    _check_layers(deepest, len(model.blocks), backbone.name)
    if not model.num_prefix_tokens:
        raise InputError(f"'{backbone.name}' has no class token: only layers=1 without patch_average can be probed")
    blocks = model.forward_intermediates(
        images, indices=deepest, norm=True, output_fmt="NLC", intermediates_only=True, return_prefix_tokens=True
    )
    tokens = [prefix[:, 0] for _patches, prefix in blocks]  # (B, T, D), (B, prefix, D): the class token stands first
    patches = blocks[-1][0].mean(dim=1)
    return [torch.cat([*tokens[-layers:], *([patches] if average else [])], dim=1) for layers, average in wanted]


def _check_layers(wanted: int, there: int, name: str) -> None:
    if wanted > there:
        raise InputError(f"layers is {wanted}, but backbone '{name}' has only {there}")
