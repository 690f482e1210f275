"""The reader of the sets that torchvision knows; what is known of each stands in `torchvision_facts`."""

from __future__ import annotations

import hashlib
import importlib
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pretrain.data.content import Contents
from pretrain.data.entries import TorchvisionEntry
from pretrain.data.images import ImageSet, Source
from pretrain.data.places import Places
from pretrain.data.readers.imagefolder import Files
from pretrain.data.splits import carve, few
from pretrain.data.torchvision_facts import SetFacts, facts
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import canonical_hash

# What torchvision calls a split, where it is not "train", "val" and "test".
_SPLITS = {
    "OxfordIIITPet": {"train": "trainval"},
    "Country211": {"val": "valid"},
    "CLEVRClassification": {"test": "val"},
}
# Those that give the images' paths instead of the images when asked.
_WITH_LOADER = (
    *("Food101", "Flowers102", "StanfordCars", "FGVCAircraft", "DTD", "SUN397", "EuroSAT", "Country211"),
    *("RenderedSST2", "CLEVRClassification", "Imagenette"),
)
# Classes that torchvision does not name; FER2013's are of its page.
_NAMES = {
    "GTSRB": tuple(map(str, range(43))),
    "CLEVRClassification": tuple(map(str, range(3, 11))),
    "FER2013": ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
}


class Arrays(Source):
    """Images that torchvision holds in memory (CIFAR, STL-10, SVHN, FER2013): uint8 (N, H, W, 3)."""

    def __init__(self, pixels: np.ndarray, name: str, identity: str) -> None:
        self.pixels, self.name, self.identity = pixels, name, identity

    def __len__(self) -> int:
        return len(self.pixels)

    def encoded(self, row: int) -> bytes:
        """The image as PNG."""
        buffer = BytesIO()
        Image.fromarray(self.pixels[row]).save(buffer, "PNG")
        return buffer.getvalue()

    def decode(self, row: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB."""
        return self.pixels[row]

    def contents(self) -> Contents:
        """Sizes, and digests of the pixels."""
        height, width = self.pixels.shape[1:3]
        found = [hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() for image in self.pixels]
        digests = np.frombuffer(b"".join(found), dtype=np.uint8).reshape(-1, 32)
        headers = np.tile(np.array([width, height, 0], dtype=np.int32), (len(self.pixels), 1))
        return Contents(digests, headers, np.full(len(self.pixels), self.pixels[0].nbytes, dtype=np.int64))

    def where(self, row: int) -> str:
        """The set and the row."""
        return f"{self.name} image {row}"


def open_split(places: Places, name: str, entry: TorchvisionEntry, split: str) -> ImageSet:
    """One official split; with `join_val`, train is train and val together.

    Raises:
        InputError: the set is not there and may not be downloaded, or its files are not what they must be.
    """
    known = facts(entry.name)
    root = places.resolve(entry.root)
    parts = ["train", "val"] if entry.join_val and split == "train" and known.val else [split]
    opened = [_open(known, root, entry, part) for part in parts]
    images = [image for found, _, _ in opened for image in found]
    labels = np.concatenate([labels for _, labels, _ in opened])
    classes = opened[0][2]
    expected = sum(getattr(known, part) for part in parts)
    if len(images) != expected or len(classes) != known.classes:
        raise InputError(
            f"data set '{name}': {entry.name}/{split} has {len(images)} images of {len(classes)} classes in {root}, "
            f"expected {expected} of {known.classes}; delete the incomplete folder and fetch it again"
        )
    identity = canonical_hash(["torchvision", known.name, parts, entry.partition])
    source = (
        Arrays(np.concatenate([found for found, _, _ in opened]), f"{entry.name}/{split}", identity)
        if isinstance(opened[0][0], np.ndarray)
        else Files(root, np.array([os.fsencode(os.path.relpath(path, root)) for path in images]), identity)
    )
    return ImageSet(source, name=name, split=split, classes=classes, labels=labels)


def _open(known: SetFacts, root: Path, entry: TorchvisionEntry, split: str) -> tuple[Any, np.ndarray, tuple[str, ...]]:
    """Pixels (N, H, W, 3) or a list of paths; labels; class names."""
    arguments: dict[str, Any] = {"download": entry.download}
    if known.name.startswith("CIFAR"):
        arguments["train"] = split == "train"
    elif known.name == "INaturalist":
        arguments["version"] = {"train": "2021_train", "val": "2021_valid"}[split]
    elif known.name not in ("Caltech101", "SUN397", "EuroSAT"):
        arguments["split"] = _SPLITS.get(known.name, {}).get(split, split)
    if known.name == "FER2013":
        del arguments["download"]
    if known.name == "INaturalist":  # it refuses to fetch what is there
        arguments["download"] = entry.download and not (root / arguments["version"]).is_dir()
    if known.name == "DTD":
        arguments["partition"] = entry.partition
    if known.name in _WITH_LOADER:
        arguments["loader"] = str  # the images' paths instead of the images
    if not entry.download and not root.is_dir():
        raise InputError(f"no folder at {root}; {_how_to_get(known)}")
    if entry.download:
        root.mkdir(parents=True, exist_ok=True)
    kind = getattr(importlib.import_module("torchvision.datasets"), known.name)
    try:
        dataset = kind(str(root), **arguments)
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{known.name} cannot be opened in {root}: {reason}; {_how_to_get(known)}") from None
    if known.name.startswith("CIFAR"):
        return dataset.data, np.array(dataset.targets, dtype=np.int64), tuple(dataset.classes)
    if known.name == "STL10":
        return np.moveaxis(dataset.data, 1, -1), dataset.labels.astype(np.int64), tuple(dataset.classes)
    if known.name == "SVHN":
        return np.moveaxis(dataset.data, 1, -1), dataset.labels, tuple(map(str, range(10)))
    if known.name == "FER2013":
        return _fer2013(dataset, root)
    if known.name == "INaturalist":
        base, names = Path(dataset.root), dataset.all_categories  # its root is the folder of the version
        pairs = [(str(base / names[label] / file), label) for label, file in sorted(dataset.index)]
        return [path for path, _ in pairs], np.array([label for _, label in pairs], dtype=np.int64), tuple(names)
    if known.name == "Caltech101":
        return _caltech101(dataset, split, entry.partition)
    if known.name == "OxfordIIITPet":  # the one class that takes no loader
        pairs = list(zip(map(str, dataset._images), dataset._labels, strict=True))
    elif known.name == "GTSRB":
        pairs = dataset._samples
    else:
        pairs = [dataset[index] for index in range(len(dataset))]
    if known.name == "EuroSAT":
        train, test = carve(np.array([label for _, label in pairs]), 0.2, entry.partition)
        pairs = [pairs[row] for row in (train if split == "train" else test).tolist()]
    if known.name == "CLEVRClassification":
        pairs = [(path, count - 3) for path, count in pairs]
    if known.name == "SUN397":
        pairs = _sun397(pairs, root / "SUN397", split, entry.partition)
    names = _NAMES.get(known.name) or dataset.classes
    # A class of several names (Imagenette) goes by the first.
    classes = tuple(each if isinstance(each, str) else each[0] for each in names)
    return [path for path, _ in pairs], np.array([label for _, label in pairs], dtype=np.int64), classes


def _fer2013(dataset: Any, root: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    if any(label is None for _, label in dataset._samples):
        raise InputError(
            f"FER2013 in {root}: test.csv has no labels; put fer2013.csv or icml_face_data.csv there, which have them"
        )
    grey = np.stack([image.numpy() for image, _ in dataset._samples])
    labels = np.array([label for _, label in dataset._samples], dtype=np.int64)
    return np.repeat(grey[..., None], 3, axis=3), labels, _NAMES["FER2013"]


def _caltech101(dataset: Any, split: str, partition: int) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    labels = np.array(dataset.y, dtype=np.int64)
    train = few(labels, per_class=30, seed=partition)
    rows = train if split == "train" else np.setdiff1d(np.arange(len(labels)), train)
    base = Path(dataset.root) / "101_ObjectCategories"
    paths = [str(base / dataset.categories[dataset.y[row]] / f"image_{dataset.index[row]:04d}.jpg") for row in rows]
    return paths, labels[rows], tuple(dataset.categories)


def _sun397(pairs: list[Any], base: Path, split: str, partition: int) -> list[Any]:
    listed = base / f"{'Training' if split == 'train' else 'Testing'}_{partition:02d}.txt"
    if not listed.is_file():
        raise InputError(f"no partition of SUN397 at {listed}: it is in Partitions.zip of {facts('SUN397').where}")
    labels = {str(Path(path).relative_to(base)): (path, label) for path, label in pairs}
    try:
        return [labels[line.strip().lstrip("/")] for line in listed.read_text().splitlines() if line.strip()]
    except KeyError as missing:
        raise InputError(f"{listed} names an image that is not in {base}: {missing.args[0]}") from None


def _how_to_get(known: SetFacts) -> str:
    return f"say `download: true` in the catalog to have it fetched, or get it from {known.where}"
