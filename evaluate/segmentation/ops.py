"""The four names that mmsegmentation imports from `mmcv.ops`, on torch and torchvision alone.

`mmcv-lite` has the Python files of `mmcv.ops` but not the compiled extension they need, so that importing them fails
and with them all of mmsegmentation. `put_in_place` sets this module there, only where the compiled operators are
absent. No protocol of ours computes with these operators; they are right all the same (tests compare them with loops).

Shapes: B batch, C channels, H W size, P points.
"""

from __future__ import annotations

import importlib.util
import sys
import types

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss as _focal_loss_of_targets


def compiled() -> bool:
    """Whether the installed mmcv has its compiled operators (the package `mmcv`, not `mmcv-lite`)."""
    return importlib.util.find_spec("mmcv._ext") is not None


def put_in_place() -> bool:
    """Make `from mmcv.ops import ...` find these four names if mmcv has no operators of its own.

    Returns:
        True if ours are in place, False if mmcv's compiled ones are used.
    """
    if compiled():
        return False
    module = types.ModuleType("mmcv.ops", __doc__)
    for name in ("CrissCrossAttention", "PSAMask", "point_sample", "sigmoid_focal_loss"):
        setattr(module, name, globals()[name])
    sys.modules.setdefault("mmcv.ops", module)
    return True


def point_sample(input: Tensor, points: Tensor, align_corners: bool = False, **arguments: str) -> Tensor:
    """Values of (B, C, H, W) maps at (B, P, 2) points, x and y in [0, 1] -> (B, C, P); grids (B, Hg, Wg, 2) too."""
    grid = points * 2 - 1
    flat = grid.ndim == 3
    sampled = F.grid_sample(input, grid[:, :, None] if flat else grid, align_corners=align_corners, **arguments)
    return sampled.squeeze(3) if flat else sampled


def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    gamma: float = 2.0,
    alpha: float = 0.25,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Focal loss of (N, C) logits against (N,) class numbers; a number that is no class has only negatives.

    `weight` (C,) multiplies the terms of a row by its class's weight; `mean` divides the sum by N, not by N * C.
    """
    classes = torch.arange(input.shape[1], device=input.device)
    loss = _focal_loss_of_targets(input, (target[:, None] == classes).to(input), alpha, gamma, reduction="none")
    if weight is not None:
        loss = loss * weight[target.clamp(max=input.shape[1] - 1)][:, None]
    if reduction == "none":
        return loss
    return loss.sum() / (len(input) if reduction == "mean" else 1)


class CrissCrossAttention(nn.Module):
    """Attention of each position over its row and column (Huang et al. 2019, CCNet, section 3.2).

    Takes and returns (B, C, H, W). A position stands in its row and in its column; the column's copy is left out.
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(in_channels, in_channels // 8, 1)
        self.key_conv = nn.Conv2d(in_channels, in_channels // 8, 1)
        self.value_conv = nn.Conv2d(in_channels, in_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        height = x.shape[2]
        query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        column = torch.einsum("bchw,bcgw->bhwg", query, key)
        itself = torch.eye(height, dtype=torch.bool, device=x.device)[None, :, None]
        column = column.masked_fill(itself, float("-inf"))
        row = torch.einsum("bchw,bchv->bhwv", query, key)
        attention = torch.cat((column, row), dim=3).softmax(dim=3)
        seen = torch.einsum("bhwg,bcgw->bchw", attention[..., :height], value)
        seen = seen + torch.einsum("bhwv,bchv->bchw", attention[..., height:], value)
        return self.gamma * seen + x


class PSAMask(nn.Module):
    """Spreads a relative attention mask over the absolute positions (Zhao et al. 2018, PSANet, section 3.3).

    Takes (B, Hm * Wm, H, W), the attention of each position over a window of `mask_size` (Hm, Wm) around it; returns
    (B, H * W, H, W), zero where the window does not reach. `collect`: entry [y * W + x, h, w] is what position (h, w)
    takes from (y, x); `distribute`: entry [h * W + w, y, x], the same value the other way round.
    """

    def __init__(self, psa_type: str, mask_size: tuple[int, int]) -> None:
        super().__init__()
        assert psa_type in ("collect", "distribute")
        self.psa_type, self.mask_size = psa_type, mask_size

    def forward(self, input: Tensor) -> Tensor:
        """(B, Hm * Wm, H, W) -> (B, H * W, H, W)."""
        batch, _, height, width = input.shape
        rows, row_reaches = self._window(self.mask_size[0], height, input.device)  # (H, H): target, source
        columns, column_reaches = self._window(self.mask_size[1], width, input.device)
        index = rows[:, None, :, None] * self.mask_size[1] + columns[None, :, None, :]  # (H, W, H, W)
        reaches = row_reaches[:, None, :, None] & column_reaches[None, :, None, :]
        area = height * width
        index = index.reshape(area, area)
        picked = input.flatten(2).gather(1, index.expand(batch, area, area))
        out = torch.where(reaches.reshape(area, area), picked, torch.zeros_like(picked))
        if self.psa_type == "distribute":
            out = out.transpose(1, 2)
        return out.reshape(batch, area, height, width)

    @staticmethod
    def _window(mask: int, size: int, device: torch.device) -> tuple[Tensor, Tensor]:
        position = torch.arange(size, device=device)
        offset = position[:, None] - position[None, :] + (mask - 1) // 2
        return offset.clamp(0, mask - 1), (offset >= 0) & (offset < mask)
