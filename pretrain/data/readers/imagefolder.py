"""Image folders: one folder a class, of any size."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.classes import look_alike, number_classes
from pretrain.data.content import Contents, contents
from pretrain.data.decode import file_bytes
from pretrain.data.entries import ImageFolderEntry
from pretrain.data.images import ImageSet, Source, unlabelled
from pretrain.data.listing import Listing, list_files
from pretrain.data.names import SUFFIXES
from pretrain.data.places import Places
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import canonical_hash


class Files(Source):
    """Image files below one folder. The names are one array, which workers share and pickle cheaply.

    `also` is what the identity holds beside the names and contents of the files.
    """

    def __init__(self, root: Path, names: np.ndarray, also: str = "") -> None:
        self.root, self.names, self.also = Path(root), names, also
        self._contents: Contents | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_contents": None}

    @property
    def identity(self) -> str:  # type: ignore[override]  # not known before the files have been read
        """A hash of names and contents."""
        return canonical_hash([self.contents().hash(self.names.tolist()), self.also])

    def contents(self) -> Contents:
        """What the files hold; those that are new or have changed are read."""
        if self._contents is None:
            self._contents = contents(self.root, self.names)
        return self._contents

    def __len__(self) -> int:
        return len(self.names)

    def path(self, row: int) -> Path:
        """Where the image lies."""
        return self.root / os.fsdecode(bytes(self.names[row]))

    def encoded(self, row: int) -> bytes:
        """The bytes of the file. Raises InputError when it is gone."""
        return file_bytes(self.path(row))

    def where(self, row: int) -> str:
        """The path."""
        return str(self.path(row))


def open_split(places: Places, name: str, entry: ImageFolderEntry, split: str) -> ImageSet:
    """One split of an image folder; the classes are the folders of `train`, or of the split where there is no train.

    Raises:
        InputError: a folder is missing, holds no image, or has images outside a class or of a class that train lacks.
    """
    root = places.resolve(getattr(entry, split))
    listing = _listing(root, name)
    of_images = _class_of(listing, root, name)
    found = sorted(set(of_images.tolist()))
    if split != "train" and entry.train is not None and isinstance(entry.classes, int | None):
        train = places.resolve(entry.train)
        found = sorted(set(_class_of(_listing(train, name), train, name).tolist()))
    classes = number_classes([os.fsdecode(folder) for folder in found], entry.classes, name)
    number = {os.fsencode(folder): index for index, folder in enumerate(classes)}
    missing = sorted(set(of_images.tolist()) - set(number))
    if missing:
        strange = [os.fsdecode(folder) for folder in missing]
        raise InputError(
            f"data set '{name}': {root} has classes that train lacks: {strange[0]}, ...{look_alike(strange, classes)}"
        )
    distinct, inverse = np.unique(of_images, return_inverse=True)
    labels = np.array([number[bytes(folder)] for folder in distinct], dtype=np.int64)[inverse]
    source = Files(root, listing.names)
    source.notes = tuple(_notes(listing))
    return ImageSet(source, name=name, split=split, classes=classes, labels=labels)


def open_pictures(places: Places, name: str, entry: ImageFolderEntry, split: str) -> ImageSet:
    """The same, where images may lie in the folder itself: they are then a set without labels.

    Raises:
        InputError: the folder is missing or holds no image; and as `open_split` where each image lies in a folder.
    """
    root = places.resolve(getattr(entry, split))
    listing = _listing(root, name)
    if np.strings.find(listing.names, b"/").min() >= 0:
        return open_split(places, name, entry, split)
    source = Files(root, listing.names)
    source.notes = tuple(_notes(listing))
    return unlabelled(source, name=name, split=split)


def _listing(root: Path, name: str) -> Listing:
    try:
        listing = list_files(root, SUFFIXES)
    except InputError as error:
        raise InputError(f"data set '{name}': {error}") from None
    if not len(listing.names):
        raise InputError(f"data set '{name}': no image below {root}; expected CLASS/*.jpg (or {', '.join(SUFFIXES)})")
    return listing


def _notes(listing: Listing) -> list[str]:
    told = [
        f"{count} {kind}{' files are' if kind[0] == '.' or kind == 'no suffix' else ' are'} left out, such as {example}"
        for kind, count, example in listing.left_out()
    ]
    broken = [os.fsdecode(bytes(name)) for name in listing.broken]
    return told + ([f"{len(broken)} links lead nowhere, such as {broken[0]}"] if broken else [])


def _class_of(listing: Listing, root: Path, name: str) -> np.ndarray:
    first, slash, _ = np.strings.partition(listing.names, b"/")
    outside = np.flatnonzero(slash == b"")
    if len(outside):
        image = os.fsdecode(bytes(listing.names[outside[0]]))
        raise InputError(
            f"data set '{name}': image {image} lies in {root} itself; expected one folder a class "
            "(images without classes can be pretrained on, not evaluated)"
        )
    return first
