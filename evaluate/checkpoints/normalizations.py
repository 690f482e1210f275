"""How a checkpoint's images are normalised: presets by name, and where a file's own is found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from evaluate.checkpoints.beside import belongs
from pretrain.backbones.handover import IMAGENET_MEAN, IMAGENET_STD, Normalization
from pretrain.runtime.errors import InputError, unknown

PRESETS: dict[str, Normalization] = {
    "imagenet": Normalization(mean=IMAGENET_MEAN, std=IMAGENET_STD),
    # SwAV's multicropdataset.py and eval_linear.py say .228 where others say .229.
    "swav": Normalization(mean=IMAGENET_MEAN, std=(0.228, 0.224, 0.225)),
    # SimCLR, both conversions: images in [0, 1] as they are.
    "none": Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
    # timm's IMAGENET_INCEPTION: [-1, 1].
    "half": Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    # openai/CLIP clip.py, and open_clip's constants.
    "clip": Normalization(mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)),
    # detectron2's default pixel mean for MSRA's files, in 0-255 and BGR order, with a std of 1.
    "msra_bgr": Normalization(
        mean=(103.53 / 255, 116.28 / 255, 123.675 / 255), std=(1 / 255, 1 / 255, 1 / 255), channels="BGR"
    ),
    # Mean and std of CIFAR-10's and CIFAR-100's training images, as solo-learn and lightly have them.
    "cifar": Normalization(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)),
    "cifar100": Normalization(mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)),
}

# Flat files say nothing of their input; these are told by the first digits of their SHA-256, which torch's hub puts
# into file names. The first rows are the ResNets of `torchvision.models`.
_TORCHVISION = ("imagenet", "a release of torchvision")
KNOWN_FILES: dict[str, tuple[str, str]] = {
    "f37072fd": _TORCHVISION,
    "b627a593": _TORCHVISION,
    "0676ba61": _TORCHVISION,
    "11ad3fa6": _TORCHVISION,
    "63fe2227": _TORCHVISION,
    "cd907fc2": _TORCHVISION,
    "394f9c45": _TORCHVISION,
    "f82ba261": _TORCHVISION,
    "7cdf4587": _TORCHVISION,
    "1a0047aa": _TORCHVISION,
    "8ba56ff5": _TORCHVISION,
    "110c445d": _TORCHVISION,
    "95faca4d": _TORCHVISION,
    "9ba9bcbe": _TORCHVISION,
    "32ee1156": _TORCHVISION,
    "d733dc28": _TORCHVISION,
    "12fca82f": ("imagenet", "akamaster's ResNet-20 for CIFAR-10, trained with ImageNet's mean and std"),
    "c2cb3cac": ("imagenet", "AugNet's ResNet-50 of the package imgsim 0.1.2"),
}


class InputSpec(BaseModel):
    """The normalisation that will be used and how it is known.

    Attributes:
        name: of the preset; None for values that no preset has.
        certainty: "given" by the user, "stated" by the file or a file beside it, "known" release, "convention" of the
            format, or "assumed" because names cannot tell.
    """

    model_config = ConfigDict(frozen=True)

    name: str | None
    normalization: Normalization
    certainty: Literal["given", "stated", "known", "convention", "assumed"]
    why: str


def preset(name: str | Mapping[str, Any]) -> Normalization:
    """A normalisation by name, or by its own `mean`, `std` and `channels` ("RGB" or "BGR").

    Raises:
        InputError: a name that is none, with those that are, or values that are no normalisation.
    """
    if not isinstance(name, str):
        try:
            made = Normalization.model_validate(dict(name))
        except ValidationError:
            made = None
        if made is None or not sensible(made):
            raise InputError(
                f"normalization is {dict(name)}; expected a name ({', '.join(PRESETS)}) or mean and std of three "
                "numbers each, the std above 0, and channels RGB or BGR"
            )
        return made
    if name not in PRESETS:
        raise unknown("normalization", name, PRESETS)
    return PRESETS[name]


def sensible(normalization: Normalization) -> bool:
    """Whether images can be normalised so: finite numbers, a std above 0, and an order of channels that there is."""
    numbers = (*normalization.mean, *normalization.std)
    return normalization.channels in ("RGB", "BGR") and all(map(math.isfinite, numbers)) and min(normalization.std) > 0


def choose(
    path: Path,
    sha256: str,
    *,
    given: str | Mapping[str, Any] | None,
    stated: Normalization | None,
    convention: str | None,
    title: str,
    beside: Mapping[str, Mapping[str, Any]],
) -> InputSpec:
    """The normalisation of a file: what the user gives, else what the file states, else what is known of its kind."""
    if given is not None:
        chosen = preset(given)
        return InputSpec(name=_name(chosen), normalization=chosen, certainty="given", why="given by the user")
    if stated is not None:
        return InputSpec(name=_name(stated), normalization=stated, certainty="stated", why="stated in the file")
    if (known := KNOWN_FILES.get(sha256[:8])) is not None:
        name, what = known
        return InputSpec(name=name, normalization=preset(name), certainty="known", why=f"the file is {what}")
    if (told := _from_neighbours(path, beside)) is not None:
        neighbour, normalization = told
        return InputSpec(
            name=_name(normalization), normalization=normalization, certainty="stated", why=f"stated in {neighbour}"
        )
    if convention is not None:
        return InputSpec(
            name=convention,
            normalization=preset(convention),
            certainty="convention",
            why=f"what {title} trains with",
        )
    return InputSpec(
        name="imagenet",
        normalization=preset("imagenet"),
        certainty="assumed",
        why="names cannot tell what this file was trained with; say it with --normalization",
    )


def _name(normalization: Normalization) -> str | None:
    return next((name for name, known in PRESETS.items() if known == normalization), None)


def _from_neighbours(path: Path, beside: Mapping[str, Mapping[str, Any]]) -> tuple[str, Normalization] | None:
    """What `config.json` (timm) or `preprocessor_config.json` (Hugging Face) beside a library's file says."""
    if not belongs(path):
        return None
    for name, mean_key, std_key in (
        ("preprocessor_config.json", "image_mean", "image_std"),
        ("config.json", "mean", "std"),
    ):
        table: Any = beside.get(name, {})
        table = table.get("pretrained_cfg", table) if name == "config.json" else table
        if isinstance(table, dict) and mean_key in table and std_key in table:
            try:
                stated = Normalization(mean=tuple(table[mean_key]), std=tuple(table[std_key]))
            except (TypeError, ValueError):
                stated = None
            if stated is not None and sensible(stated):
                return name, stated
            raise InputError(f"{path.parent / name} holds no mean and std of three numbers") from None
    return None
