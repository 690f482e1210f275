"""Sets of boxes and masks as plain images to pretrain on: the images that their lists name, without annotations."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pretrain.data.entries import CocoEntry, MasksEntry, VocEntry
from pretrain.data.images import ImageSet, unlabelled
from pretrain.data.listing import list_files
from pretrain.data.names import SUFFIXES
from pretrain.data.places import Places
from pretrain.data.readers.imagefolder import Files
from pretrain.data.readers.json_lists import list_items
from pretrain.data.readers.voc_labels import open_split as open_labelled
from pretrain.data.readers.voc_lists import image_file, stems
from pretrain.runtime.errors import InputError


def of_voc(places: Places, name: str, entry: VocEntry, split: str) -> ImageSet:
    """A tree with annotations keeps its labels; of one without, the images that the lists name.

    Raises:
        InputError: a list or an image that is missing; and as the VOC reader does, where there are annotations.
    """
    root = places.resolve(entry.root)
    parts = [(root / part.rpartition("/")[0], part.rpartition("/")[2]) for part in getattr(entry, split)]
    if all((folder / "Annotations").is_dir() for folder, _ in parts):
        return open_labelled(places, name, entry, split)
    paths = [
        image_file(folder / "JPEGImages", stem)
        for folder, listed in parts
        for stem in stems(folder / "ImageSets" / "Main" / f"{listed}.txt", folder / "JPEGImages")
    ]
    return _set(root, (path.relative_to(root) for path in paths), name, split)


def of_coco(places: Places, name: str, entry: CocoEntry, split: str) -> ImageSet:
    """The images that the JSON lists, whatever else it holds; COCO's `image_info` files have no annotations.

    Raises:
        InputError: a missing file, JSON that cannot be read, or a list without a name of an image.
    """
    place = getattr(entry, split)
    folder, json_file = places.resolve(place.images), places.resolve(place.json_file)
    names = []
    for item in list_items(json_file, ("images",)):
        file_name = item.value.get("file_name") if isinstance(item.value, dict) else None
        if not isinstance(file_name, str) or not file_name:
            raise InputError(f"{json_file}:{item.line}: an item of 'images' has no 'file_name'")
        names.append(file_name)
    if not names:
        raise InputError(f"{json_file}: it lists no image")
    return _set(folder, names, name, split)


def of_masks(places: Places, name: str, entry: MasksEntry, split: str) -> ImageSet:
    """The images of the folder, those with `image_suffix` where the entry has one; masks need not be there.

    Raises:
        InputError: no such folder, or no image in it.
    """
    folder = places.resolve(getattr(entry, split).images)
    try:
        names = list_files(folder, (entry.image_suffix.lower(),) if entry.image_suffix else SUFFIXES).names.tolist()
    except InputError as error:
        raise InputError(f"data set '{name}', split '{split}': {error}") from None
    if not names:
        raise InputError(
            f"data set '{name}': no image{f' *{entry.image_suffix}' * bool(entry.image_suffix)} in {folder}"
        )
    return _set(folder, map(os.fsdecode, names), name, split)


def _set(root: Path, names: Iterable[str | Path], name: str, split: str) -> ImageSet:
    return unlabelled(Files(root, np.array([os.fsencode(each) for each in names])), name=name, split=split)
