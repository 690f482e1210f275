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
from pretrain.data.images import ImageSet, unlabelled
from pretrain.data.labels import Label, numbered
from pretrain.data.places import Places
from pretrain.data.readers.imagefolder import Files
from pretrain.data.readers.listed import Listed, on_disk, read_list
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
        InputError: a list or the root is missing, a list gives neither labels nor class folders, or a label is no
            class. Files that are missing are found by `fastmoco data check`, or when they are read.
    """
    listed = _read(places, entry, split, name)
    bare = _without_class(listed)
    if bare is not None:
        raise InputError(
            f"{listed.where(bare)}: expected 'CLASS/name.jpg' or 'name.jpg LABEL', got '{listed.images[bare]}'; "
            "a list without labels can be pretrained on, not evaluated"
        )
    return _open(places, name, entry, split, listed)


def open_pictures(places: Places, name: str, entry: FileListEntry, split: str) -> ImageSet:
    """The same, where labels need not be there. Raises InputError as `open_split` does, for all else."""
    listed = _read(places, entry, split, name)
    if _without_class(listed) is None:
        return _open(places, name, entry, split, listed)
    root = _root(places, entry, name)
    return unlabelled(Files(root, np.array(on_disk(root, listed.images))), name=name, split=split)


def _open(places: Places, name: str, entry: FileListEntry, split: str, listed: Listed) -> ImageSet:
    root = _root(places, entry, name)
    labels: np.ndarray
    if listed.labels is None:
        folders = _folders(listed)
        found = sorted(set(folders))
        if split != "train" and entry.train is not None and isinstance(entry.classes, int | None):
            found = sorted(set(_folders(_read(places, entry, "train", name))))
        classes = number_classes(found, entry.classes, name)
        number = {label: index for index, label in enumerate(classes)}
        strange = sorted(set(folders) - set(number))
        if strange:
            raise InputError(f"data set '{name}': {getattr(entry, split)} has classes that train lacks: {strange[0]}")
        labels = np.array([number[folder] for folder in folders], dtype=np.int64)
    else:
        others = [_read(places, entry, other, name) for other in entry.splits() if other != split]
        labels, classes = numbered(
            listed.labels,
            several=listed.several or any(other.several for other in others),
            given=entry.classes,
            of_train=None if split == "train" or not entry.train else lambda: _labels_of_train(places, entry, name),
            name=name,
            where=listed.where,
        )
    source = Files(root, np.array(on_disk(root, listed.images)))
    return ImageSet(source, name=name, split=split, classes=classes, labels=labels)


def _root(places: Places, entry: FileListEntry, name: str) -> Path:
    root = places.resolve(entry.root)
    if not root.is_dir():
        raise InputError(f"data set '{name}': no folder at {root}")
    return root


def _folders(listed: Listed) -> list[str]:
    return [os.path.basename(os.path.dirname(path)) for path in listed.images]  # noqa: PTH119, PTH120 - a million times


def _without_class(listed: Listed) -> int | None:
    """The first row that has neither a label nor a folder."""
    if listed.labels is not None:
        return None
    return next((row for row, image in enumerate(listed.images) if "/" not in image), None)


def _labels_of_train(places: Places, entry: FileListEntry, name: str) -> list[tuple[Label, ...]]:
    listed = _read(places, entry, "train", name)
    if listed.labels is None:
        raise InputError(f"data set '{name}': the list of train, {listed.path}, has no labels, another split's has")
    return listed.labels


def _read(places: Places, entry: FileListEntry, split: str, name: str) -> Listed:
    given = getattr(entry, split)
    if given.startswith("imagenet:"):
        names = packaged_names(given)
        return Listed(Path(given), names, None, list(range(1, len(names) + 1)))
    path = places.resolve(given)
    if not path.is_file():
        raise InputError(f"data set '{name}': no list at {path}; packaged lists: {', '.join(PACKAGED)}")
    return read_list(path, image_column=entry.image_column, label_column=entry.label_column)
