"""What a probe sees of an image: the pooled output, or more of the last layers.

Shapes: B batch, C channels, H W size, D feature width, T tokens.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.backbones.contract import Backbone, Tokens
from pretrain.runtime.errors import InputError

MOST_AT_ONCE = 128
PIXELS_IN_CACHE = 1 << 16


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


@dataclass(frozen=True, order=True)
class Sees:
    """What a probe sees of an image; the fields are those of `evaluate.protocols.images.FeatureProtocol`."""

    layers: int = 1
    patch_average: bool = False
    tokens: str = "pooled"
    norm: bool = True
    pool_px: int | None = None

    def described(self) -> dict[str, Any]:
        """For cache keys and records: what goes beyond layers and the patch average only where it does."""
        more = {"tokens": (self.tokens, "pooled"), "norm": (self.norm, True), "pool_px": (self.pool_px, None)}
        changed = {key: value for key, (value, usual) in more.items() if value != usual}
        return {"layers": self.layers, "patch_average": self.patch_average, **changed}


POOLED = Sees()


def represent(backbone: Backbone, images: Tensor, sees: Sees = POOLED) -> Tensor:
    """(B, C, H, W) -> (B, D'), features of the last `layers` stages or blocks, concatenated, last one last.

    One layer, "pooled", without patch average is the backbone's own pooled output. Otherwise "pooled" is each layer's
    class token after the final norm (DINO, appendix F.2: the last 4) or, of families without one, the mean over its
    positions; `patch_average` adds the mean of the last block's patch tokens (DINOv2, eval/linear.py
    `create_linear_input`). "class", "mean" and "both" take each layer's class token, mean of patches, or the two.

    Raises:
        InputError: more layers than the backbone has, or tokens that its family does not have.
    """
    if sees.pool_px is not None:
        return pooled_in_windows(backbone, images, sees.pool_px)
    return represent_many(backbone, images, [sees])[0]


def pooled_in_windows(backbone: Backbone, images: Tensor, side: int) -> Tensor:
    """(B, C, H, W) -> (B, D * windows): the last map averaged over side x side windows at stride 1.

    Channel by channel, and in each the windows row by row, as `AvgPool2d` and a reshape give them.

    Raises:
        InputError: the map is smaller than a window, or the backbone has tokens and no maps.
    """
    if backbone.is_plain:
        raise InputError(f"pool_px is {side}, but '{backbone.name}' has no feature maps to pool: expected pool_px null")
    last = backbone.maps(laid_out_images(images))[-1]
    if min(last.shape[2:]) < side:
        height, width = last.shape[2:]
        raise InputError(
            f"pool_px is {side}, but the last map of '{backbone.name}' is {height}x{width} for these images: expected "
            "a smaller pool_px, or null for the backbone's own pooled output"
        )
    return F.avg_pool2d(last, side, stride=1).flatten(1)


def represent_many(backbone: Backbone, images: Tensor, wanted: list[Sees]) -> list[Tensor]:
    """`represent` for several representations at once, from as few forward passes as they need (one a `norm`)."""
    images = laid_out_images(images)
    for sees in wanted:
        if sees.patch_average and not backbone.is_plain:
            raise InputError(f"patch_average needs a backbone with patch tokens (a ViT); '{backbone.name}' has none")
        if sees.tokens in ("class", "both") and not backbone.has_class_token:
            raise InputError(f"tokens is '{sees.tokens}', but backbone '{backbone.name}' has no class token")
    own = backbone(images) if POOLED in wanted else None
    tokens: dict[bool, list[Tokens]] = {}
    for norm in {sees.norm for sees in wanted if sees != POOLED}:
        deepest = max(sees.layers for sees in wanted if sees.norm == norm)
        tokens[norm] = backbone.tokens(images, deepest, norm=norm)
    return [own if own is not None and sees == POOLED else _joined(tokens[sees.norm], sees) for sees in wanted]


def _joined(layers: list[Tokens], sees: Sees) -> Tensor:
    parts = [layer.pooled(sees.tokens) for layer in layers[-sees.layers :]]
    return torch.cat([*parts, *([layers[-1].patches.mean(dim=1)] if sees.patch_average else [])], dim=1)
