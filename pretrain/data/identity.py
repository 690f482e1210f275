"""What a data set is, as a hash of what its files hold, which does not change when the set is copied elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretrain.data.content import contents, file_identity
from pretrain.data.entries import (
    CocoEntry,
    Entry,
    FileListEntry,
    GeneratedEntry,
    ImageFolderEntry,
    MasksEntry,
    ParquetEntry,
    TarEntry,
    TorchvisionEntry,
    VocEntry,
)
from pretrain.data.listing import list_files
from pretrain.data.names import SUFFIXES
from pretrain.data.places import Places
from pretrain.runtime.files import canonical_hash

_VOC_FOLDERS = ("JPEGImages", "Annotations", "SegmentationClass", "SegmentationClassAug", "SegmentationObject")


def entry_identity(places: Places, name: str, entry: Entry) -> str:
    """`Catalog.identity`."""
    said = entry.identity_of(entry.model_dump(mode="json", exclude={"root", "download"}))
    if isinstance(entry, MasksEntry) and isinstance(entry.values, str):
        said["values"] = file_identity(places.resolve(entry.values))
    for split in entry.splits():
        said[split] = _split(places, name, entry, split)
    return canonical_hash(said)


def _split(places: Places, name: str, entry: Entry, split: str) -> Any:
    value: Any = getattr(entry, split, None)
    if isinstance(entry, ParquetEntry | TarEntry):
        return [file_identity(path) for path in places.files(value, name)]
    if isinstance(entry, ImageFolderEntry):
        return _folder(places.resolve(value))
    if isinstance(entry, FileListEntry):
        from pretrain.data.readers.filelist import open_pictures

        return open_pictures(places, name, entry, split).identity
    if isinstance(entry, VocEntry):
        return [_voc(places.resolve(entry.root), part) for part in value]
    if isinstance(entry, CocoEntry):
        return [file_identity(places.resolve(value.json_file)), _folder(places.resolve(value.images))]
    if isinstance(entry, MasksEntry):
        masks = places.resolve(value.masks)
        # Without masks the images can be pretrained on.
        return [_folder(places.resolve(value.images)), _folder(masks) if masks.is_dir() else None]
    if isinstance(entry, GeneratedEntry):
        from pretrain.data.generated.shapes import VERSION

        return [value, VERSION]
    assert isinstance(entry, TorchvisionEntry)
    return split  # torchvision checks its own files against their published MD5


def _voc(root: Path, part: str) -> Any:
    year, _, split = part.rpartition("/")
    base = root / year
    lists = [base / "ImageSets" / kind / f"{split}.txt" for kind in ("Main", "Segmentation")]
    return [
        year,
        {path.parent.name: file_identity(path) for path in lists if path.is_file()},
        *(_folder(base / kind) for kind in _VOC_FOLDERS if (base / kind).is_dir()),
    ]


def _folder(path: Path) -> str:
    names = list_files(path, (*SUFFIXES, ".xml")).names
    return contents(path, names).hash(names.tolist())
