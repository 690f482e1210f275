"""The augmentation after the crop, for a batch at once on the device: the same draws, the same steps, in float.

Shapes: B batch, H W size. Values are whole levels from 0 to 255, cut off after each operation as PIL does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.views.draws import ViewDraw, draw_view
from pretrain.views.settings import ViewsSpec

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601-2


class DeviceViews(torch.nn.Module):
    """uint8 crops (B, 3, H, W) -> views (B, 3, H, W) as the spec's `output` says, on the crops' device."""

    def __init__(self, spec: ViewsSpec, seed: int) -> None:
        super().__init__()
        self.spec, self.seed = spec, seed

    def forward(self, crops: Tensor, indices: Sequence[int], epoch: int, view: int) -> Tensor:
        """The views of the samples `indices`, of which `crops` are the crops of this view."""
        # The crop is made: its box, the one thing in a draw that depends on the image's size, is not used.
        draws = [draw_view(self.spec, self.seed, epoch, index, view, 1, 1) for index in indices]
        pixels = augment(crops.float(), draws)
        if self.spec.output == "uint8":
            return pixels.to(torch.uint8)
        mean, std = (torch.tensor(v, device=crops.device).view(3, 1, 1) for v in (self.spec.mean, self.spec.std))
        return pixels.mul_(1 / (255 * std)).sub_(mean / std)


def augment(pixels: Tensor, draws: Sequence[ViewDraw]) -> Tensor:
    """Levels (B, 3, H, W) float32 -> the same: everything the draws ask for after the crop, in their order."""
    device = pixels.device
    for position in range(4):
        for operation, function in enumerate(_JITTER):
            rows = [i for i, d in enumerate(draws) if d.jitter is not None and d.order[position] == operation]
            if rows:
                factors = [(draws[i].jitter or ())[operation] for i in rows]
                at = torch.tensor(rows, device=device)
                pixels[at] = function(pixels[at], torch.tensor(factors, device=device).view(-1, 1, 1, 1))
    for applies, change in _AFTER_JITTER:
        rows = [i for i, d in enumerate(draws) if applies(d)]
        if rows:
            at = torch.tensor(rows, device=device)
            pixels[at] = change(pixels[at], [draws[i].blur_sigma for i in rows])
    return pixels


def _luma(x: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA, device=x.device).view(1, 3, 1, 1)
    return (x * weights).sum(dim=1, keepdim=True).add_(0.5).floor_()  # PIL rounds here


def _gray(x: Tensor, _: list[float]) -> Tensor:
    return _luma(x).expand_as(x)


def _brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).clamp_(0, 255).floor_()


def _contrast(x: Tensor, factor: Tensor) -> Tensor:
    mean = _luma(x).mean(dim=(2, 3), keepdim=True).add_(0.5).floor_()
    return (mean + factor * (x - mean)).clamp_(0, 255).floor_()


def _saturation(x: Tensor, factor: Tensor) -> Tensor:
    gray = _luma(x)
    return (gray + factor * (x - gray)).clamp_(0, 255).floor_()


def _hue(x: Tensor, shift: Tensor) -> Tensor:
    # PIL's HSV has 256 levels of hue and saturation; so has this, or the shift would be finer than there.
    high, low = x.amax(dim=1), x.amin(dim=1)
    spread = (high - low).clamp(min=1)
    r, g, b = ((high - x[:, channel]) / spread for channel in range(3))
    hue = torch.where(x[:, 0] == high, b - g, torch.where(x[:, 1] == high, 2 + r - b, 4 + g - r))
    hue = torch.where(high == low, torch.zeros_like(hue), hue)
    hue = ((hue / 6) % 1 * 255).floor_()
    saturation = ((high - low) / high.clamp(min=1) * 255).floor_() / 255
    hue = (hue + (shift.squeeze(-1) * 255).trunc()) % 256
    sixth = hue * (6 / 255)
    channels = []
    for offset in (5, 3, 1):  # red, green, blue: how far round the circle each is from its fall
        k = (offset + sixth) % 6
        ramp = torch.minimum(k, 4 - k).clamp(0, 1)
        channels.append((high * (1 - saturation * ramp)).add_(0.5).floor_())
    return torch.stack(channels, dim=1).clamp_(0, 255)


def _blur(x: Tensor, sigmas: list[float]) -> Tensor:
    radii = [max(1, round(3 * sigma)) for sigma in sigmas]
    reach = max(radii)
    at = torch.arange(-reach, reach + 1, device=x.device, dtype=torch.float32)
    sigma = torch.tensor(sigmas, device=x.device).view(-1, 1)
    kernel = torch.exp(-0.5 * (at / sigma) ** 2) * (at.abs() <= torch.tensor(radii, device=x.device).view(-1, 1))
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)
    count, _, height, width = x.shape
    # A group of the convolution for every channel of every image: each image has a kernel of its own.
    flat = F.pad(x, (reach, reach, reach, reach), mode="replicate").reshape(1, 3 * count, height + 2 * reach, -1)
    flat = F.conv2d(flat, kernel.view(3 * count, 1, 1, -1), groups=3 * count)
    flat = F.conv2d(flat, kernel.view(3 * count, 1, -1, 1), groups=3 * count)
    return flat.reshape(count, 3, height, width).add_(0.5).floor_().clamp_(0, 255)


def _solarize(x: Tensor, _: list[float]) -> Tensor:
    return torch.where(x < 128, x, 255 - x)


def _flip(x: Tensor, _: list[float]) -> Tensor:
    return x.flip(-1)


_JITTER = (_brightness, _contrast, _saturation, _hue)
_AFTER_JITTER: tuple[tuple[Callable[[ViewDraw], bool], Callable[[Tensor, list[float]], Tensor]], ...] = (
    (lambda draw: draw.gray, _gray),
    (lambda draw: draw.blur_sigma > 0, _blur),
    (lambda draw: draw.solarize, _solarize),
    (lambda draw: draw.flip, _flip),
)
