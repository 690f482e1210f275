"""The sets that torchvision knows, with their official splits: the transfer sets of the field, in one table.

Counts and metrics follow Kornblith et al. 2019 (arXiv:1805.08974, table 1), which SimCLR (arXiv:2002.05709, appendix
B.8) and BYOL took over; each row says where it differs. Importing this module needs no torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pretrain.data.images import ImageSet, Source
from pretrain.data.splits import few
from pretrain.errors import InputError, unknown
from pretrain.files import canonical_hash

if TYPE_CHECKING:
    from pretrain.data.catalog import Catalog
    from pretrain.data.entries import TorchvisionEntry


@dataclass(frozen=True)
class SetFacts:
    """What is known of a public set before it is there.

    Attributes:
        name: in the catalog; also the name of torchvision's class.
        classes: K.
        train, val, test: numbers of images; 0 where the set has no such split.
        metric: what the field reports: "top1" or "mean_per_class".
        where: the page of its authors, where people get it when torchvision cannot fetch it.
        note: what differs from the table's source.
    """

    name: str
    classes: int
    train: int
    val: int
    test: int
    metric: str
    where: str
    note: str = ""

    def splits(self) -> tuple[str, ...]:
        """The splits the set has."""
        return tuple(split for split in ("train", "val", "test") if getattr(self, split))


SETS: dict[str, SetFacts] = {
    facts.name: facts
    for facts in (
        SetFacts("CIFAR10", 10, 50_000, 0, 10_000, "top1", "https://www.cs.toronto.edu/~kriz/cifar.html"),
        SetFacts("CIFAR100", 100, 50_000, 0, 10_000, "top1", "https://www.cs.toronto.edu/~kriz/cifar.html"),
        SetFacts(
            *("STL10", 10, 5_000, 0, 8_000, "top1", "https://cs.stanford.edu/~acoates/stl10/"),
            note="not in the table; the 100,000 unlabelled images are left out",
        ),
        SetFacts(
            *("Food101", 101, 75_750, 0, 25_250, "top1"), "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/"
        ),
        SetFacts(
            *("OxfordIIITPet", 37, 3_680, 0, 3_669, "mean_per_class", "https://www.robots.ox.ac.uk/~vgg/data/pets/"),
            note="the table prints 3,369 test images; the set's own list has 3,669",
        ),
        SetFacts(
            *("Flowers102", 102, 1_020, 1_020, 6_149, "mean_per_class"),
            "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
            note="the table trains on train and val together: join_val",
        ),
        SetFacts(
            *("StanfordCars", 196, 8_144, 0, 8_041, "top1", "https://ai.stanford.edu/~jkrause/cars/car_dataset.html"),
            note="its page is gone and torchvision cannot download it; put the files in place by hand",
        ),
        SetFacts(
            *("FGVCAircraft", 100, 3_334, 3_333, 3_333, "mean_per_class"),
            "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/",
            note="100 variants; the table trains on train and val together: join_val",
        ),
        SetFacts(
            *("DTD", 47, 1_880, 1_880, 1_880, "top1", "https://www.robots.ox.ac.uk/~vgg/data/dtd/"),
            note="partition 1 of 10; the table trains on train and val together: join_val",
        ),
        SetFacts(
            *("Caltech101", 101, 3_030, 0, 5_647, "mean_per_class", "https://data.caltech.edu/records/mzrjq-6wc02"),
            note="no official split: 30 images a class train, drawn with `partition` as the seed; torchvision leaves "
            "out the background class, which the table counts (102 classes, 3,060 / 6,084)",
        ),
        SetFacts(
            *("SUN397", 397, 19_850, 0, 19_850, "top1", "https://vision.princeton.edu/projects/2010/SUN/"),
            note="the official partitions are a file of their own, Partitions.zip of the same page; Training_01.txt "
            "and Testing_01.txt from it are looked for in ROOT/SUN397",
        ),
    )
}


def facts(name: str) -> SetFacts:
    """What is known of a set. Raises InputError for a name that is none, with those that are."""
    if name not in SETS:
        raise unknown("torchvision data set", name, SETS)
    return SETS[name]


class Paths(Source):
    """Image files anywhere."""

    def __init__(self, paths: list[str], identity: str) -> None:
        self.paths, self.identity = np.array([path.encode() for path in paths]), identity

    def __len__(self) -> int:
        return len(self.paths)

    def encoded(self, row: int) -> bytes:
        """The bytes of the file. Raises InputError when it is gone."""
        try:
            return Path(self.where(row)).read_bytes()
        except FileNotFoundError:
            raise InputError(f"no image at {self.where(row)}") from None

    def where(self, row: int) -> str:
        """The path."""
        return bytes(self.paths[row]).decode()


class Arrays(Source):
    """Images that torchvision holds in memory (CIFAR, STL-10): uint8 (N, H, W, 3)."""

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

    def where(self, row: int) -> str:
        """The set and the row."""
        return f"{self.name} image {row}"


def open_split(catalog: Catalog, name: str, entry: TorchvisionEntry, split: str) -> ImageSet:
    """One official split; with `join_val`, train is train and val together.

    Raises:
        InputError: the set is not there and may not be downloaded, or its files are not what they must be.
    """
    known = facts(entry.name)
    root = catalog.resolve(entry.root)
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
        else Paths(images, identity)
    )
    return ImageSet(source, name=name, split=split, classes=classes, labels=labels)


def _open(known: SetFacts, root: Path, entry: TorchvisionEntry, split: str) -> tuple[Any, np.ndarray, tuple[str, ...]]:
    """Pixels (N, H, W, 3) or a list of paths; labels; class names."""
    arguments: dict[str, Any] = {"download": entry.download}
    if known.name.startswith("CIFAR"):
        arguments["train"] = split == "train"
    elif known.name == "OxfordIIITPet":
        arguments["split"] = "trainval" if split == "train" else "test"
    elif known.name not in ("Caltech101", "SUN397"):
        arguments["split"] = split
    if known.name == "DTD":
        arguments["partition"] = entry.partition
    if known.name in ("Food101", "Flowers102", "StanfordCars", "FGVCAircraft", "DTD", "SUN397"):
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
    if known.name == "Caltech101":
        return _caltech101(dataset, split, entry.partition)
    if known.name == "OxfordIIITPet":  # the one class that takes no loader
        pairs = list(zip(map(str, dataset._images), dataset._labels, strict=True))
    else:
        pairs = [dataset[index] for index in range(len(dataset))]
    if known.name == "SUN397":
        pairs = _sun397(pairs, root / "SUN397", split, entry.partition)
    return [path for path, _ in pairs], np.array([label for _, label in pairs], dtype=np.int64), tuple(dataset.classes)


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
        raise InputError(f"no partition of SUN397 at {listed}: it is in Partitions.zip of {SETS['SUN397'].where}")
    labels = {str(Path(path).relative_to(base)): (path, label) for path, label in pairs}
    try:
        return [labels[line.strip().lstrip("/")] for line in listed.read_text().splitlines() if line.strip()]
    except KeyError as missing:
        raise InputError(f"{listed} names an image that is not in {base}: {missing.args[0]}") from None


def _how_to_get(known: SetFacts) -> str:
    return f"say `download: true` in the catalog to have it fetched, or get it from {known.where}"
