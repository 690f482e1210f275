"""The random numbers of a view: each is a function of (seed, epoch, sample index, view), and of nothing else.

The numbers are raw words of a Philox generator: its key is (seed, epoch), its counter starts at (index, view). NumPy
keeps the stream of its bit generators the same between versions, which it does not promise for its distributions.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from pretrain.views.settings import ViewsSpec

_ORDERS = tuple(itertools.permutations(range(4)))
_CROP_TRIES = 10  # as torchvision's RandomResizedCrop
_WORDS = 16 + 4 * _CROP_TRIES
_TO_UNIT = 2.0**-53


@dataclass(frozen=True)
class ViewDraw:
    """What happens to one view, in this order: crop and resize, jitter, grayscale, blur, solarise, flip.

    Attributes:
        box: top, left, height, width of the crop in pixels.
        jitter: factors of brightness, contrast and saturation and the shift of hue (part of the circle); None: none.
        order: the order of the four, 0 brightness, 1 contrast, 2 saturation, 3 hue.
        blur_sigma: in pixels of the view; 0.0: no blur.
    """

    box: tuple[int, int, int, int]
    jitter: tuple[float, float, float, float] | None
    order: tuple[int, ...]
    gray: bool
    blur_sigma: float
    solarize: bool
    flip: bool


def uniforms(seed: int, epoch: int, index: int, view: int, count: int = _WORDS) -> np.ndarray:
    """`count` numbers in [0, 1) that belong to this view of this sample in this epoch."""
    key = np.array([seed % 2**64, epoch], dtype=np.uint64)
    # The generator counts up in the first word; index and view stand in others, so that no two streams can meet.
    counter = np.array([0, 0, index, view], dtype=np.uint64)
    words = np.random.Philox(counter=counter, key=key).random_raw(count)
    return (words >> np.uint64(11)) * _TO_UNIT


def draw_view(spec: ViewsSpec, seed: int, epoch: int, index: int, view: int, height: int, width: int) -> ViewDraw:
    """What happens to view 0 or 1 of a sample whose image is height x width pixels; view 2 is drawn like view 0."""
    u = uniforms(seed, epoch, index, view).tolist()
    jitter = None
    if u[0] < spec.jitter_p:
        b, c, s, h = spec.jitter
        jitter = (
            max(0.0, 1 - b) + u[1] * (1 + b - max(0.0, 1 - b)),
            max(0.0, 1 - c) + u[2] * (1 + c - max(0.0, 1 - c)),
            max(0.0, 1 - s) + u[3] * (1 + s - max(0.0, 1 - s)),
            h * (2 * u[4] - 1),
        )
    low, high = spec.blur_sigma
    return ViewDraw(
        box=_draw_box(spec, u[16:], height, width),
        jitter=jitter,
        order=_ORDERS[int(u[5] * len(_ORDERS))],
        gray=u[6] < spec.gray_p,
        blur_sigma=low + u[8] * (high - low) if u[7] < spec.blur_p[view % 2] else 0.0,
        solarize=u[9] < spec.solarize_p[view % 2],
        flip=u[10] < spec.flip_p,
    )


def _draw_box(spec: ViewsSpec, u: list[float], height: int, width: int) -> tuple[int, int, int, int]:
    # The distribution of Inception's crop as torchvision draws it: ten tries, then the largest centre crop whose
    # ratio is allowed.
    low, high = spec.crop_scale
    log_low, log_high = math.log(spec.crop_ratio[0]), math.log(spec.crop_ratio[1])
    for attempt in range(_CROP_TRIES):
        a, b, c, d = u[4 * attempt : 4 * attempt + 4]
        area = height * width * (low + a * (high - low))
        ratio = math.exp(log_low + b * (log_high - log_low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(c * (height - h + 1)), int(d * (width - w + 1)), h, w
    ratio = width / height
    w, h = width, height
    if ratio < spec.crop_ratio[0]:
        h = max(1, round(w / spec.crop_ratio[0]))
    elif ratio > spec.crop_ratio[1]:
        w = max(1, round(h * spec.crop_ratio[1]))
    return (height - h) // 2, (width - w) // 2, h, w
