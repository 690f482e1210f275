"""The data catalog: names of data sets, where they lie and how to open them. Importing this module needs no torch."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import RootModel

from pretrain.data.entries import (
    SPLITS,
    VOC_CLASSES,
    CocoEntry,
    CocoSplit,
    Entry,
    FileListEntry,
    ImageFolderEntry,
    ImagesEntry,
    MasksEntry,
    MasksSplit,
    ParquetEntry,
    ScenesEntry,
    ShapesEntry,
    TarEntry,
    TorchvisionEntry,
    VocEntry,
)
from pretrain.data.places import Places
from pretrain.runtime.errors import InputError, unknown
from pretrain.runtime.settings import load_yaml, validate

if TYPE_CHECKING:
    from pretrain.data.images import ImageSet
    from pretrain.data.objects import ObjectSet
    from pretrain.data.readers.masks import MaskSet

__all__ = [
    "BUILT_IN",
    "SPLITS",
    "VOC_CLASSES",
    "Catalog",
    "CocoEntry",
    "CocoSplit",
    "Entry",
    "FileListEntry",
    "ImageFolderEntry",
    "MasksEntry",
    "MasksSplit",
    "ParquetEntry",
    "ScenesEntry",
    "ShapesEntry",
    "TarEntry",
    "TorchvisionEntry",
    "VocEntry",
]

BUILT_IN: dict[str, Entry] = {
    "shapes": ShapesEntry(format="shapes", size=64, train=8000, test=2000, seed=0),
    "scenes": ScenesEntry(format="shapes-scenes", size=128, train=400, test=100, seed=0),
}

# What a set can be opened as -> format -> "module:function" of the reader. A reader knows nothing of the catalog: it
# gets the places, the set's name, its entry and the split.
_READERS = {
    "images": {
        "parquet": "pretrain.data.readers.parquet:open_split",
        "imagefolder": "pretrain.data.readers.imagefolder:open_split",
        "filelist": "pretrain.data.readers.filelist:open_split",
        "tar": "pretrain.data.readers.tar:open_split",
        "torchvision": "pretrain.data.readers.torchvision_sets:open_split",
        "voc": "pretrain.data.readers.voc_labels:open_split",
        "shapes": "pretrain.data.generated.sets:open_split",
    },
    # Images to pretrain on: labels need not be there.
    "pictures": {
        "parquet": "pretrain.data.readers.parquet:open_pictures",
        "imagefolder": "pretrain.data.readers.imagefolder:open_pictures",
        "filelist": "pretrain.data.readers.filelist:open_pictures",
        "tar": "pretrain.data.readers.tar:open_pictures",
        "torchvision": "pretrain.data.readers.torchvision_sets:open_split",
        "voc": "pretrain.data.readers.pictures:of_voc",
        "coco": "pretrain.data.readers.pictures:of_coco",
        "masks": "pretrain.data.readers.pictures:of_masks",
        "shapes": "pretrain.data.generated.sets:open_split",
        "shapes-scenes": "pretrain.data.generated.scenes:open_pictures",
    },
    "objects": {
        "voc": "pretrain.data.readers.voc:open_split",
        "coco": "pretrain.data.readers.coco:open_split",
        "shapes-scenes": "pretrain.data.generated.scenes:open_split",
    },
    "masks": {
        "masks": "pretrain.data.readers.masks:open_split",
        "voc": "pretrain.data.readers.voc_masks:open_split",
        "shapes-scenes": "pretrain.data.generated.scenes:open_masks",
    },
}
_IN_WORDS = {"pictures": "images", "images": "labelled images", "objects": "boxes", "masks": "class masks"}
Kind = Literal["pictures", "images", "objects", "masks"]


class _File(RootModel[dict[str, Entry]]):
    pass


class Catalog:
    """Data sets by name: the built-in generated ones and those of one file."""

    def __init__(self, entries: dict[str, Entry] | None = None, path: Path | None = None) -> None:
        self.path = path
        self.places = Places(path.parent if path else None)
        self._entries: dict[str, Entry] = {**BUILT_IN, **(entries or {})}

    @classmethod
    def load(cls, path: Path | None = None) -> Catalog:
        """The catalog of `path`; of `$FASTMOCO_CATALOG` when not given; the built-in sets alone when neither is.

        Raises:
            InputError: no such file, or an entry that is wrong, with the file's name and line.
        """
        if path is None:
            given = os.environ.get("FASTMOCO_CATALOG")
            if not given:
                return cls()
            path = Path(given)
        path = Path(path).expanduser().absolute()
        values, lines = load_yaml(path)
        return cls(validate(_File, values or {}, path=path, lines=lines).root, path)

    def names(self) -> list[str]:
        """Every name, sorted."""
        return sorted(self._entries)

    def entry(self, name: str) -> Entry:
        """The entry of a data set. Raises InputError for a name that is none, with those that are."""
        if name not in self._entries:
            raise unknown("data set", name, self._entries)
        return self._entries[name]

    def images(self, name: str, split: str) -> ImageSet:
        """The labelled images of one split ("train", "val" or "test").

        Raises:
            InputError: no such data set, its format holds no labelled images, it lacks the split, or its files are
                missing or not what the entry says.
        """
        return self._open("images", name, split)

    def pictures(self, name: str, split: str) -> ImageSet:
        """The images of one split to pretrain on, of every format. Where they have no labels the set has no classes.

        Raises:
            InputError: no such data set or split, or files that are missing or not what the entry says.
        """
        return self._open("pictures", name, split)

    def objects(self, name: str, split: str) -> ObjectSet:
        """The images of one split with their boxes, classes and, where there are, masks of objects.

        Raises:
            InputError: no such set or split, a format that holds no boxes, or a file that is missing or wrong (which,
                and in which line).
        """
        return self._open("objects", name, split)

    def masks(self, name: str, split: str) -> MaskSet:
        """The images of one split with a class mask each.

        Raises:
            InputError: no such set or split, a format without class masks, a missing folder or list, or an image whose
                mask is missing, which is named.
        """
        return self._open("masks", name, split)

    def identity(self, name: str) -> str:
        """A hash that changes when the data does, made without decoding an image.

        Files count by their names and their content; where they lie and when they were written does not, so that a
        copy of a set is the same set and a corrected file makes another. Each file is read once and again when it has
        changed (`pretrain.data.content`). Generated sets count by their parameters and the generator's version,
        torchvision's by their name, as torchvision checks what it unpacks.

        Raises:
            InputError: no such data set, or files that are missing.
        """
        from pretrain.data.identity import entry_identity

        return entry_identity(self.places, name, self.entry(name))

    def demand(self, name: str, kind: Kind) -> Entry:
        """The entry of a data set that can be opened as `kind`; nothing of it is opened.

        Raises:
            InputError: no such data set, or its format holds nothing of the kind.
        """
        entry = self.entry(name)
        if entry.format not in _READERS[kind]:
            raise InputError(
                f"data set '{name}' has format '{entry.format}', which holds no {_IN_WORDS[kind]}; "
                f"formats that do: {', '.join(_READERS[kind])}"
            )
        return entry

    def _open(self, kind: Kind, name: str, split: str) -> Any:
        entry = self.demand(name, kind)
        if split not in entry.splits():
            raise unknown(f"split of data set '{name}'", split, entry.splits())
        module, _, function = _READERS[kind][entry.format].partition(":")
        opened = getattr(importlib.import_module(module), function)(self.places, name, entry, split)
        return opened.with_max_pixels(entry.max_pixels) if isinstance(entry, ImagesEntry) else opened
