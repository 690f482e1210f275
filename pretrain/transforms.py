"""Transforms for probes: the test image (resize, centre crop) and the training image (random crop, flip).

Made of torch's antialiased resize on uint8, which differs from PIL's by 0.05 levels on average.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from pretrain.backbones.handover import Normalization
from pretrain.runtime.settings import Settings
from pretrain.views.draws import draw_view
from pretrain.views.operations import crop_resize, flip
from pretrain.views.settings import ViewsSpec


class TestTransform(Settings):
    """uint8 (H, W, 3) RGB -> float32 (3, crop, crop), normalised. A value, so that it can be part of a cache key.

    Attributes:
        resize: the shorter side in pixels; None leaves the size.
        crop: the side of the centre crop; None crops nothing.
        interpolation: "bicubic" or "bilinear", antialiased.
        normalization: mean, standard deviation and channel order of the backbone.
    """

    __test__ = False  # not a test case, whatever its name makes of it

    resize: PositiveInt | None = 256
    crop: PositiveInt | None = 224
    interpolation: str = "bicubic"
    normalization: Normalization = Normalization()

    def __call__(self, image: np.ndarray) -> Tensor:
        """The tensor of one image."""
        tensor = torch.from_numpy(np.ascontiguousarray(image)).unsqueeze(0).permute(0, 3, 1, 2)
        height, width = image.shape[:2]
        if self.resize is not None and min(height, width) != self.resize:
            short, long = min(height, width), max(height, width)
            scaled = self.resize * long // short  # torchvision's rounding
            size = (self.resize, scaled) if height <= width else (scaled, self.resize)
            tensor = F.interpolate(tensor, size, mode=self.interpolation, antialias=True, align_corners=False)
        if self.crop is not None:
            tensor = _centre(tensor, self.crop)
        return normalize(tensor[0], self.normalization)


class TrainTransform:
    """uint8 (H, W, 3) RGB -> float32 (3, size, size): random resized crop and flip, normalised.

    Call it with the image and (epoch, index): the draw depends on these and the seed alone.
    """

    def __init__(self, spec: ViewsSpec, normalization: Normalization, seed: int) -> None:
        self.spec, self.normalization, self.seed = spec, normalization, seed

    def __call__(self, image: np.ndarray, epoch: int, index: int) -> Tensor:
        """The tensor of one image."""
        draw = draw_view(self.spec, self.seed, epoch, index, 0, *image.shape[:2])
        pixels = crop_resize(image, draw.box, self.spec.size, self.spec.interpolation)
        pixels = flip(pixels) if draw.flip else pixels
        return normalize(torch.from_numpy(pixels).permute(2, 0, 1), self.normalization)


def test_transform(  # pytest would take the name for a test: `__test__` below says no
    resize: int | None = 256,  # noqa: PT028
    crop: int | None = 224,  # noqa: PT028
    interpolation: str = "bicubic",  # noqa: PT028
    normalization: Normalization | None = None,  # noqa: PT028
) -> TestTransform:
    """The test image of the field: shorter side to `resize`, centre crop of `crop` pixels, normalised."""
    return TestTransform(
        resize=resize, crop=crop, interpolation=interpolation, normalization=normalization or Normalization()
    )


test_transform.__test__ = False  # type: ignore[attr-defined]


def train_transform(
    crop: int = 224,
    scale: tuple[float, float] = (0.08, 1.0),
    flip_p: float = 0.5,
    interpolation: str = "bicubic",
    normalization: Normalization | None = None,
    *,
    seed: int,
) -> TrainTransform:
    """The training image of a linear probe: random resized crop and horizontal flip, as Inception and torchvision."""
    spec = ViewsSpec.model_validate(
        {"size": crop, "crop_scale": scale, "flip_p": flip_p, "interpolation": interpolation}
    )
    return TrainTransform(spec, normalization or Normalization(), seed)


def normalize(image: Tensor, normalization: Normalization) -> Tensor:
    """uint8 (..., 3, H, W) in RGB -> float32: (value / 255 - mean) / std in the backbone's order of channels."""
    if normalization.channels == "BGR":
        image = image.flip(-3)
    mean, std = (torch.tensor(v, device=image.device).view(3, 1, 1) for v in (normalization.mean, normalization.std))
    out = torch.empty(image.shape, dtype=torch.float32, device=image.device)
    return out.copy_(image).mul_(1 / (255 * std)).sub_(mean / std)


def _centre(tensor: Tensor, crop: int) -> Tensor:
    """(1, 3, H, W) -> (1, 3, crop, crop); an image smaller than the crop is padded with black, as torchvision does."""
    height, width = tensor.shape[2:]
    if min(height, width) < crop:
        pads = [max(crop - width, 0), max(crop - height, 0)]
        tensor = F.pad(tensor, (pads[0] // 2, pads[0] - pads[0] // 2, pads[1] // 2, pads[1] - pads[1] // 2))
        height, width = tensor.shape[2:]
    top, left = round((height - crop) / 2), round((width - crop) / 2)
    return tensor[:, :, top : top + crop, left : left + crop]
