"""What a probe sees of an image: the pooled output, or more of the last layers.

Shapes: B batch, C channels, H W size, D feature width, T tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pretrain.backbones import Backbone, TimmBackbone
from pretrain.errors import InputError


def represent(backbone: Backbone, images: Tensor, *, layers: int = 1, patch_average: bool = False) -> Tensor:
    """(B, C, H, W) -> (B, D'), features of the last `layers` stages or blocks, concatenated, last one last.

    One layer without patch average is the backbone's own pooled output. A ResNet gives each stage's average-pooled
    map; a ViT each block's normalised class token (DINO, appendix F.2: the last 4) and, with `patch_average`, the mean
    of the last block's patch tokens (DINOv2, eval/linear.py `create_linear_input`).

    Raises:
        InputError: more layers than the backbone has, or `patch_average` of a backbone without patch tokens.
    """
    if layers == 1 and not patch_average:
        return backbone(images)
    if isinstance(backbone, TimmBackbone) and hasattr(backbone.model, "blocks"):
        return _of_tokens(backbone, images, layers, patch_average)
    if patch_average:
        raise InputError(f"patch_average needs a backbone with patch tokens (a ViT); '{backbone.name}' has none")
    maps = backbone.maps(images)
    _check_layers(layers, len(maps), backbone.name)
    return torch.cat([stage.mean(dim=(2, 3)) for stage in maps[-layers:]], dim=1)


def _of_tokens(backbone: TimmBackbone, images: Tensor, layers: int, patch_average: bool) -> Tensor:
    model: Any = backbone.model
    _check_layers(layers, len(model.blocks), backbone.name)
    if not model.num_prefix_tokens:
        raise InputError(f"'{backbone.name}' has no class token: only layers=1 without patch_average can be probed")
    blocks = model.forward_intermediates(
        images, indices=layers, norm=True, output_fmt="NLC", intermediates_only=True, return_prefix_tokens=True
    )
    parts = [prefix[:, 0] for _patches, prefix in blocks]  # (B, T, D), (B, prefix, D): the class token stands first
    if patch_average:
        parts.append(blocks[-1][0].mean(dim=1))
    return torch.cat(parts, dim=1)


def _check_layers(wanted: int, there: int, name: str) -> None:
    if wanted > there:
        raise InputError(f"layers is {wanted}, but backbone '{name}' has only {there}")
