"""The data catalog: names of data sets, where they lie and how to open them. Importing this module needs no torch."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import RootModel

from pretrain.data.entries import (
    SPLITS,
    VOC_CLASSES,
    CocoEntry,
    CocoSplit,
    Entry,
    FileListEntry,
    ImageFolderEntry,
    MasksEntry,
    MasksSplit,
    ParquetEntry,
    ScenesEntry,
    ShapesEntry,
    TarEntry,
    TorchvisionEntry,
    VocEntry,
)
from pretrain.errors import InputError, unknown
from pretrain.settings import load_yaml, validate

if TYPE_CHECKING:
    from pretrain.data.images import ImageSet

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

# format -> "module:function" of the reader that makes an ImageSet; formats without one hold no labelled images.
_READERS = {
    "parquet": "pretrain.data.parquet:open_split",
    "imagefolder": "pretrain.data.imagefolder:open_split",
    "filelist": "pretrain.data.filelist:open_split",
    "tar": "pretrain.data.tar:open_split",
    "torchvision": "pretrain.data.torchvision_sets:open_split",
    "voc": "pretrain.data.voc_labels:open_split",
    "shapes": "pretrain.data.generated:open_split",
}


class _File(RootModel[dict[str, Entry]]):
    pass


class Catalog:
    """Data sets by name: the built-in generated ones and those of one file."""

    def __init__(self, entries: dict[str, Entry] | None = None, path: Path | None = None) -> None:
        self.path = path
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

    def resolve(self, relative: str | Path) -> Path:
        """An absolute path: `~` is expanded, and what is relative is relative to the catalog's file."""
        path = Path(relative).expanduser()
        return (self.path.parent if self.path else Path.cwd()) / path

    def images(self, name: str, split: str) -> ImageSet:
        """The labelled images of one split ("train", "val" or "test").

        Raises:
            InputError: no such data set, its format holds no labelled images, it lacks the split, or its files are
                missing or not what the entry says.
        """
        entry = self.entry(name)
        if entry.format not in _READERS:
            raise InputError(
                f"data set '{name}' has format '{entry.format}', which holds no labelled images; "
                f"formats that do: {', '.join(_READERS)}"
            )
        if split not in entry.splits():
            raise unknown(f"split of data set '{name}'", split, entry.splits())
        module, _, function = _READERS[entry.format].partition(":")
        return getattr(importlib.import_module(module), function)(self, name, entry, split)

    def identity(self, name: str) -> str:
        """A hash that changes when the data does, made without decoding an image.

        Files count by their names and sizes, small files and the ends of large ones by content too; where they lie
        and when they were written does not count, so that a copy of a set is the same set. Generated sets count by
        their parameters and the generator's version.

        Raises:
            InputError: no such data set, or files that are missing.
        """
        from pretrain.data.identity import entry_identity

        return entry_identity(self, name)
