"""The paper's idea as pure functions: divide an image into a grid of patches, combine r of their P embeddings.

Shapes: B batch, C channels, H W image size, h w patch size, P patches, D feature width, G combinations, r patches in
a combination.
"""

from __future__ import annotations

import math
from itertools import combinations as choose

import numpy as np
import torch
from torch import Tensor

from pretrain.runtime.errors import InputError


def patch_size(size: int, grid: int, overlap: float = 0.0) -> int:
    """Pixels along one side of a patch of an image with `size` pixels along it.

    With `overlap` o each patch is (1 + o) times as long as a cell of the grid, and the patches are spread evenly from
    edge to edge; o = 0 tiles the image. A grid of 1 is the whole image.

    Raises:
        InputError: the grid does not divide the size, or the overlap gives patches that do not lie on whole pixels.
    """
    if grid == 1:
        return size
    if size % grid:
        fits = [g for g in (1, 2, 3, 4) if size % g == 0]
        raise InputError(
            f"grid {grid} does not divide a view of {size} pixels; for this size grid may be {_list(fits)}"
        )
    cell = size // grid
    side = cell * (1 + overlap)
    step = (size - side) / (grid - 1)
    if not (float(side).is_integer() and float(step).is_integer() and step > 0):
        fits_overlap = [
            extra / cell
            for extra in range(cell)
            if (size - cell - extra) % (grid - 1) == 0 and size - cell - extra > 0 and extra / cell <= 0.5
        ]
        raise InputError(
            f"overlap {overlap} gives patches of {side:g} pixels every {step:g} of a view of {size}; "
            f"whole pixels need one of {_list([round(o, 4) for o in fits_overlap[:9]])}"
        )
    return int(side)


def divide(images: Tensor, grid: int, overlap: float = 0.0) -> Tensor:
    """(B, C, H, W) -> (P*B, C, h, w), patch after patch in reading order: `.unflatten(0, (P, B))` takes them apart.

    The memory format of the input is kept. Raises InputError as `patch_size` does.
    """
    if grid == 1:
        return images
    B, C, H, W = images.shape
    h, w = patch_size(H, grid, overlap), patch_size(W, grid, overlap)
    tops = [row * (H - h) // (grid - 1) for row in range(grid)]
    lefts = [column * (W - w) // (grid - 1) for column in range(grid)]
    patches = [images[:, :, top : top + h, left : left + w] for top in tops for left in lefts]
    layout = torch.channels_last if images.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    out = torch.empty((grid * grid * B, C, h, w), dtype=images.dtype, device=images.device, memory_format=layout)
    return torch.cat(patches, out=out) if not images.requires_grad else torch.cat(patches)


def combinations(patches: int, combine: int, limit: int | None = None, seed: int = 0) -> Tensor:
    """The combinations of `combine` of `patches` patches as int64 (G, r), each row ascending.

    All C(P, r) of them in lexicographic order, or, where that is more than `limit`, as many drawn without replacement
    by a generator seeded with `seed` (again in lexicographic order).

    Raises:
        InputError: `combine` is not between 1 and `patches`, or `limit` below 1.
    """
    if not 1 <= combine <= patches:
        raise InputError(f"combine is {combine}, expected 1 to {patches}: a view has {patches} patches")
    if limit is not None and limit < 1:
        raise InputError(f"max_combinations is {limit}, expected 1 or more")
    rows = np.array(list(choose(range(patches), combine)), dtype=np.int64)
    if limit is not None and math.comb(patches, combine) > limit:
        rows = rows[np.sort(np.random.default_rng(seed).choice(len(rows), limit, replace=False))]
    return torch.from_numpy(rows)


def mixing_matrix(rows: Tensor, patches: int) -> Tensor:
    """(G, r) combinations -> (G, P) float64 weights, 1/r where a patch takes part: each row sums to 1."""
    return torch.zeros(len(rows), patches, dtype=torch.float64).scatter_(1, rows, 1.0 / rows.shape[1])


def combine(embeddings: Tensor, mixing: Tensor) -> Tensor:
    """(P, B, D) embeddings of the patches -> (G, B, D) embeddings of the combinations, each the mean of its patches."""
    return torch.tensordot(mixing.to(embeddings.dtype), embeddings, dims=1)


def _list(values: list) -> str:
    return ", ".join(str(value) for value in values) or "nothing"
