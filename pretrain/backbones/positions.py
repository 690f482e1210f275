"""Position embeddings of ViTs at sizes they were not trained at, in each family's own way.

Shapes: D width, H W size of a map in patches, P prefix tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Interpolation:
    """How a grid of positions is brought to another size, always bicubic: what the families differ in.

    Attributes:
        offset: added to the wanted size before it is made a factor of the old one; the kernel then uses this factor
            and not the ratio of the sizes. 0 goes by the sizes.
        antialias: widen the kernel when the grid shrinks.
    """

    offset: float = 0.0
    antialias: bool = False


INTERPOLATIONS = {
    # timm.layers.resample_abs_pos_embed; DINOv2 with registers (hub/backbones.py: antialias, offset 0)
    "antialias": Interpolation(antialias=True),
    # dino vision_transformer.py `interpolate_pos_encoding`; dinov2 (interpolate_offset 0.1, no antialias)
    "offset": Interpolation(offset=0.1),
    # mae util/pos_embed.py, BEiT, and Transformers' ViT and Dinov2 models
    "plain": Interpolation(),
}


def interpolation_of(model: str) -> str:
    """The name of the interpolation that a timm model's family uses, by timm's name (with its tag) for the model."""
    name, _, tag = model.partition(".")
    if "dinov2" in name or "dinov2" in tag:
        return "antialias" if "reg" in name else "offset"
    if tag == "dino" or tag.startswith("dino_"):
        return "offset"
    return "plain" if tag == "mae" or tag.startswith("mae_") else "antialias"


def resampled(positions: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int, how: Interpolation) -> Tensor:
    """(1, P + H W, D) of the grid `old` -> the same of the grid `new`; the `prefix` tokens stay as they are."""
    if old == new:
        return positions
    first, grid = positions[:, :prefix], positions[:, prefix:]
    grid = grid.float().unflatten(1, old).permute(0, 3, 1, 2)
    if how.offset:
        factors = [(there + how.offset) / here for here, there in zip(old, new, strict=True)]
        grid = F.interpolate(grid, scale_factor=factors, mode="bicubic", antialias=how.antialias)  # type: ignore[arg-type]
        assert grid.shape[2:] == new
    else:
        grid = F.interpolate(grid, size=new, mode="bicubic", antialias=how.antialias)
    return torch.cat([first, grid.flatten(2).transpose(1, 2).to(positions.dtype)], dim=1)


class _AtGrid:
    """A ViT of timm's as its `_pos_embed` sees it, with positions that are those of the image's grid already."""

    def __init__(self, model: Any, positions: Tensor, grid: tuple[int, int]) -> None:
        self.model, self.pos_embed, self.patch_embed = model, positions, SimpleNamespace(grid_size=grid)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


def _pos_embed(model: Any, x: Tensor, how: Interpolation) -> Any:
    """What timm's `_pos_embed` gives, with positions interpolated by `how`; `x` is (B, H, W, D)."""
    old, new = tuple(model.patch_embed.grid_size), (x.shape[1], x.shape[2])
    if model.pos_embed is None or old == new:
        return type(model)._pos_embed(model, x)
    prefix = 0 if model.no_embed_class else model.num_prefix_tokens
    return type(model)._pos_embed(_AtGrid(model, resampled(model.pos_embed, old, new, prefix, how), new), x)


def interpolate_by(model: Any, how: Interpolation) -> None:
    """Let a timm ViT that takes images of any size bring its positions to the image's grid by `how`."""
    model._pos_embed = partial(_pos_embed, model, how=how)
