"""What public sets hold when they are whole; `manifests.yaml` beside this file."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import yaml
from pydantic import RootModel

from pretrain.data.images import ImageSet
from pretrain.data.readers.filelist import packaged_names
from pretrain.runtime.settings import Settings

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Manifest(Settings):
    """A public set: how many images each split, list or file of it has, and where people get it."""

    title: str
    source: str
    where: str
    images: dict[str, int] = {}
    per_class: dict[str, tuple[int, int]] = {}
    lists: dict[str, int] = {}
    files: dict[str, int] = {}


def manifests() -> dict[str, Manifest]:
    """Every manifest by name."""
    text = (resources.files("pretrain.data") / "manifests.yaml").read_text(encoding="utf-8")
    return RootModel[dict[str, Manifest]].model_validate(yaml.safe_load(text)).root


def imagenet_classes() -> list[str]:
    """The 1000 WordNet ids of ImageNet-1k, sorted, as the packaged lists have them."""
    return sorted({str(Path(name).parent) for name in packaged_names("imagenet:1percent")})


def recognise(images: ImageSet) -> str | None:
    """Which manifest a set of labelled images is to be held to, by the names of its classes; None for others.

    Nine tenths of ImageNet's class folders are enough, so that missing ones can be told.
    """
    if images.classes == _CIFAR10:
        return "cifar10"
    if len(images.classes) == 100 and {"apple", "aquarium_fish", "worm"} <= set(images.classes):
        return "cifar100"
    return "imagenet" if len(set(images.classes) & set(imagenet_classes())) >= 900 else None
