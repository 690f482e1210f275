"""Lists of image files: a folder and a text file of names, such as the 1 % and 10 % of ImageNet's labels."""

from __future__ import annotations

import hashlib
import lzma
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from pretrain.data.classes import number_classes
from pretrain.data.entries import FileListEntry
from pretrain.data.images import ImageSet
from pretrain.data.places import Places
from pretrain.data.readers.imagefolder import Files
from pretrain.runtime.errors import InputError, unknown


@dataclass(frozen=True)
class PackagedList:
    """A list that is part of this package: its file, the SHA-256 of its text and how many names it holds."""

    file: str
    sha256: str
    count: int


# The subsets of SimCLR (google-research/simclr, imagenet_subsets/, Apache-2.0), unchanged but for the compression. A
# line is a file's name; what stands before the "_" is its folder.
PACKAGED = {
    "imagenet:1percent": PackagedList(
        "imagenet_1percent.txt.xz", "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17", 12_811
    ),
    "imagenet:10percent": PackagedList(
        "imagenet_10percent.txt.xz", "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091", 128_116
    ),
}


def packaged_names(name: str) -> list[str]:
    """The lines of a packaged list, `n01440764/n01440764_10026.JPEG` and so on.

    Raises:
        InputError: no such list, or an installation whose list is damaged.
    """
    if name not in PACKAGED:
        raise unknown("packaged list", name, PACKAGED)
    packaged = PACKAGED[name]
    text = lzma.decompress((resources.files("pretrain.data") / packaged.file).read_bytes())
    lines = text.decode("ascii").split()
    if hashlib.sha256(text).hexdigest() != packaged.sha256 or len(lines) != packaged.count:
        raise InputError(f"the packaged list {name} is damaged: install fastmoco again")
    return [f"{line.partition('_')[0]}/{line}" for line in lines]


def open_split(places: Places, name: str, entry: FileListEntry, split: str) -> ImageSet:
    """One split of a set of listed files.

    Raises:
        InputError: a list or the root is missing, a line is neither `CLASS/name` nor `name LABEL`, or a label is no
            class. Files that are missing are found by `fastmoco data check`, or when they are read.
    """
    root = places.resolve(entry.root)
    if not root.is_dir():
        raise InputError(f"data set '{name}': no folder at {root}")
    paths, labels = _read(places, getattr(entry, split), name)
    if labels is None:
        folders = [os.path.basename(os.path.dirname(path)) for path in paths]  # noqa: PTH119, PTH120 - a million times
        found = sorted(set(folders))
        if split != "train" and entry.train is not None and isinstance(entry.classes, int | None):
            of_train, _ = _read(places, entry.train, name)
            found = sorted({Path(path).parent.name for path in of_train})
        classes = number_classes(found, entry.classes, name)
        number = {label: index for index, label in enumerate(classes)}
        strange = sorted(set(folders) - set(number))
        if strange:
            raise InputError(f"data set '{name}': {getattr(entry, split)} has classes that train lacks: {strange[0]}")
        labels = [number[folder] for folder in folders]
    else:
        count = entry.classes if isinstance(entry.classes, int) else max(labels) + 1
        classes = entry.classes if isinstance(entry.classes, tuple) else tuple(map(str, range(count)))
        if min(labels) < 0 or max(labels) >= len(classes):
            raise InputError(
                f"data set '{name}': labels in {getattr(entry, split)} run from {min(labels)} to {max(labels)}, "
                f"expected 0 to {len(classes) - 1}"
            )
    source = Files(root, np.array([os.fsencode(path) for path in paths]))
    return ImageSet(source, name=name, split=split, classes=classes, labels=np.array(labels, dtype=np.int64))


def _read(places: Places, given: str, name: str) -> tuple[list[str], list[int] | None]:
    """The paths of a list, and its labels when its lines end in one."""
    if given.startswith("imagenet:"):
        return packaged_names(given), None
    path = places.resolve(given)
    if not path.is_file():
        raise InputError(f"data set '{name}': no list at {path}; packaged lists: {', '.join(PACKAGED)}")
    paths: list[str] = []
    labels: list[int] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        image, _, label = line.strip().rpartition(" ")
        has_label = bool(image) and label.isdigit()
        if has_label != bool(labels) and paths:
            raise InputError(f"{path}:{number}: some lines end in a label and some do not")
        if not has_label and "/" not in line:
            raise InputError(f"{path}:{number}: expected 'CLASS/name.jpg' or 'name.jpg LABEL', got '{line.strip()}'")
        paths.append(image.strip() if has_label else line.strip())
        if has_label:
            labels.append(int(label))
    if not paths:
        raise InputError(f"{path}:1: the list names no image")
    return paths, labels or None
