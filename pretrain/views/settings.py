"""What the two views are, as settings, and the named sets of them. Importing this module needs no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator

from pretrain.runtime.errors import unknown
from pretrain.runtime.settings import Later, Settings

Probability = Annotated[float, Field(ge=0, le=1)]
Pair = tuple[Probability, Probability]


class ViewsSpec(Settings):
    """Two random views of an image; a pair holds the value of the first and of the second view.

    Attributes:
        size: H and W of a view in pixels.
        crop_scale: the crop's area as a part of the image's, drawn uniformly between these.
        crop_ratio: its width by its height, drawn log-uniformly between these.
        interpolation: of the resize, always antialiased.
        jitter: strengths of brightness, contrast, saturation (factor uniform in 1 -+ strength) and hue (uniform in
            -+ strength of the colour circle), applied in random order.
        jitter_p, gray_p, flip_p: probabilities of colour jitter, grayscale and horizontal flip, for either view.
        blur_sigma: Gaussian blur's sigma in pixels, drawn uniformly between these. Below 0.5 it is weaker than PIL's,
            with which the sources blur, by up to 0.8 levels of 255 on average (`pretrain.views.operations.blur`).
        blur_p, solarize_p: probabilities of blur and of solarisation (values from 128 on are inverted), one a view.
        mean, std: of the normalisation, on the scale 0 to 1.
        output: "float32" normalised, or "uint8" to be normalised on the device.
        where: "workers" does all of it on CPU workers; "device" does all but the crop in batches on the accelerator,
            with the same random numbers.
        on_error: at a damaged image "stop", or "skip" to the next image, counted and listed.
        skip_at_most: part of the images that "skip" passes over before it stops; 0.001 unless set, so that a set of
            fewer than 1000 images needs more.
    """

    size: PositiveInt = 224
    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_p: Probability = 0.8
    gray_p: Probability = 0.2
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    blur_p: Pair = (0.5, 0.5)
    solarize_p: Pair = (0.0, 0.0)
    flip_p: Probability = 0.5
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    output: Literal["float32", "uint8"] = "float32"
    where: Literal["workers", "device"] = "workers"
    on_error: Literal["stop", "skip"] = "stop"
    skip_at_most: Annotated[Probability, Later(before=0.001)] = 0.001

    @field_validator("crop_scale", "crop_ratio", "blur_sigma")
    @classmethod
    def _a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"expected two positive numbers, the smaller one first, got {list(value)}")
        return value

    @field_validator("crop_scale")
    @classmethod
    def _a_part(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[1] > 1:
            raise ValueError(f"expected parts of the image's area, at most 1, got {list(value)}")
        return value

    @field_validator("jitter")
    @classmethod
    def _strengths(cls, value: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        if min(value) < 0 or value[3] > 0.5:
            raise ValueError(f"expected strengths of at least 0, hue's at most 0.5, got {list(value)}")
        return value


CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of CIFAR-10's training images

# MoCo v2 (arXiv:2003.04297, section 3; facebookresearch/moco main_moco.py:287-305), with the bicubic crops of Fast-MoCo
# (orashi/Fast-MoCo, ssl_exp/fast_moco/*/config.yaml).
MOCO_V2 = ViewsSpec()

# BYOL (arXiv:2006.07733, appendix B, table 6): asymmetric blur and solarisation, crops from 8 % of the area, jitter
# 0.4/0.4/0.2/0.1. Its blur's sigma is uniform in 0.1 to 2.0 as well.
BYOL = ViewsSpec(
    crop_scale=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), blur_p=(1.0, 0.1), solarize_p=(0.0, 0.2)
)  # fmt: skip

# MoCo v3 (facebookresearch/moco-v3 main_moco.py:262-287): BYOL's set; --crop-min is 0.08, and 0.2 for its ResNet-50
# (CONFIG.md), which is what we have.
MOCO_V3 = BYOL.model_copy(update={"crop_scale": (0.2, 1.0), "interpolation": "bilinear"})

# SimSiam on CIFAR-10 (arXiv:2011.10566, appendix D): MoCo v2's set on 32-pixel crops without blur.
CIFAR = ViewsSpec(size=32, blur_p=(0.0, 0.0), mean=CIFAR_MEAN, std=CIFAR_STD)

# For the generated set: 32-pixel views of 64-pixel images (four patches of 16), and no hue that would tell the classes.
SHAPES = ViewsSpec(size=32, crop_scale=(0.2, 1.0), blur_sigma=(0.1, 1.0))

VIEWS: dict[str, ViewsSpec] = {
    "moco_v2": MOCO_V2,
    "byol": BYOL,
    "moco_v3": MOCO_V3,
    "cifar": CIFAR,
    "shapes": SHAPES,
}


def named_views(name: str) -> ViewsSpec:
    """The named set of views. Raises InputError for a name that is none, with those that are."""
    if name not in VIEWS:
        raise unknown("set of views", name, VIEWS)
    return VIEWS[name]
