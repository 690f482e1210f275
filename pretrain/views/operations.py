"""The operations of a view on one image, uint8 (H, W, 3) RGB in rows: each within a level of PIL's on average.

What is a function of the pixel value alone is a table of 256 values, equal to PIL's to the bit. Blur is a true Gaussian
where PIL's is three box filters (see `blur`). Resizing is torch's antialiased one, which computes in uint8 with SIMD
when a pixel's channels lie side by side.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch.nn import functional as F

_VALUES = np.arange(256, dtype=np.float32)
_INVERTED_ABOVE = np.where(np.arange(256) < 128, np.arange(256), 255 - np.arange(256)).astype(np.uint8)


def crop_resize(image: np.ndarray, box: tuple[int, int, int, int], size: int, interpolation: str) -> np.ndarray:
    """(H, W, 3) -> (size, size, 3): the box (top, left, height, width), resized with antialiasing."""
    top, left, height, width = box
    crop = np.ascontiguousarray(image[top : top + height, left : left + width])
    if crop.shape[:2] == (size, size):
        return crop
    # The batch axis comes before the permutation: only then do the strides read as channels-last, which torch keeps.
    tensor = torch.from_numpy(crop).unsqueeze(0).permute(0, 3, 1, 2)
    resized = F.interpolate(tensor, (size, size), mode=interpolation, antialias=True, align_corners=False)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def brightness(image: np.ndarray, factor: float) -> np.ndarray:
    """Every value times `factor`."""
    return cv2.LUT(image, _clipped(_VALUES * np.float32(factor)))


def contrast(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from the mean gray level of the whole image by `factor`."""
    red, green, blue, _ = cv2.mean(image)
    mean = np.float32(int(0.299 * red + 0.587 * green + 0.114 * blue + 0.5))
    return cv2.LUT(image, _clipped(mean + np.float32(factor) * (_VALUES - mean)))


def saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Away from each pixel's own gray level by `factor`."""
    # PIL cuts the fraction off where OpenCV rounds: hence the half.
    return cv2.addWeighted(image, factor, grayscale(image), 1.0 - factor, -0.5)


def hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turn the colour circle by `shift` of its whole, -0.5 to 0.5."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    hsv[..., 0] += np.uint8(int(shift * 255) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)


def grayscale(image: np.ndarray) -> np.ndarray:
    """Luma (ITU-R 601-2), in all three channels."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian blur, cut off at three sigma; the border pixels repeat outside.

    From sigma 0.5 on it is within 0.7 levels of PIL's three box filters, on average. Below, a Gaussian sampled at whole
    pixels is narrower than its sigma, and PIL's boxes are not: ours changes an image by 0.01 levels where PIL's does by
    0.60 at sigma 0.3, and by 0.84 instead of 1.32 at 0.4 (photographs; the largest difference of the two is 0.8).
    """
    radius = max(1, round(3 * sigma))
    kernel = cv2.getGaussianKernel(2 * radius + 1, sigma, cv2.CV_32F)
    return cv2.sepFilter2D(image, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


def solarize(image: np.ndarray) -> np.ndarray:
    """Values of 128 and more are inverted."""
    return cv2.LUT(image, _INVERTED_ABOVE)


def flip(image: np.ndarray) -> np.ndarray:
    """Left becomes right."""
    return cv2.flip(image, 1)


JITTER = (brightness, contrast, saturation, hue)  # in the order of ViewDraw.jitter


def _clipped(values: np.ndarray) -> np.ndarray:
    # PIL clips, then cuts the fraction off.
    return np.clip(values, 0, 255).astype(np.uint8)
