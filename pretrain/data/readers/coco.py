"""COCO's JSON: images, categories and annotations with boxes and, where there are, masks."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.entries import CocoEntry, CocoSplit
from pretrain.data.objects import ObjectSet, checked_box
from pretrain.data.packed import PackedImages, Packer, packed, unpacked
from pretrain.data.places import Places
from pretrain.data.readers.json_lists import Item, list_items
from pretrain.data.run_lengths import fault_of
from pretrain.runtime.errors import InputError

log = logging.getLogger("fastmoco")

_LISTS = ("images", "annotations", "categories")
_NEEDED = {
    "images": ("id", "file_name", "width", "height"),
    "categories": ("id", "name"),
    "annotations": ("image_id", "category_id", "bbox"),
}


def open_split(places: Places, name: str, entry: CocoEntry, split: str) -> ObjectSet:
    """One split of a `coco` entry. Raises InputError as `read_coco` does."""
    place: CocoSplit = getattr(entry, split)
    return read_coco(places.resolve(place.images), places.resolve(place.json_file), name=name, split=split)


def read_coco(images: Path, json_file: Path, *, name: str, split: str) -> ObjectSet:
    """The images of `json_file` that lie in `images`. Classes are the file's categories, in the order of their ids.

    The file is read item by item and kept in packed arrays, so that COCO's train2017 takes a few hundred megabytes.

    Raises:
        InputError: a missing file; JSON that cannot be read; an image or category that stands twice; an annotation of
            an image or category that the file lacks, with a box outside its image, or whose box, area or mask is
            damaged: with file, line and the annotation's id. Or a file without images.
    """
    reader = _Reader(images, json_file)
    for item in list_items(json_file, _LISTS):
        reader.take(item)
    return reader.objects(name, split)


class _Reader:
    """Takes the items of a file in any order; what needs the others is looked at in the end."""

    def __init__(self, folder: Path, json_file: Path) -> None:
        self.folder, self.json_file = folder, json_file
        self.present = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
        self.images: dict[Any, Item] = {}
        self.names: dict[str, Any] = {}
        self.categories: dict[Any, Item] = {}
        self.packer = Packer()
        # Ids of images and categories, in the order in which annotations name them; and the annotations' own.
        self.named: dict[str, dict[Any, int]] = {"image_id": {}, "category_id": {}}
        self.own_ids: list[Any] = []

    def take(self, item: Item) -> None:
        value = item.value
        needed = _NEEDED[item.key]
        missing = [name for name in needed if name not in value] if isinstance(value, dict) else list(needed)
        if missing:
            raise self.wrong(item, f"an item of '{item.key}' has no '{missing[0]}'")
        {"images": self._image, "categories": self._category, "annotations": self._annotation}[item.key](item)

    def wrong(self, item: Item, message: str) -> InputError:
        own = item.value.get("id") if item.key == "annotations" and isinstance(item.value, dict) else None
        named = "" if own is None else f"annotation {own!r}: "
        return InputError(f"{self.json_file}:{item.line}: {named}{message}")

    def _image(self, item: Item) -> None:
        value = item.value
        key, file_name = self._id(item, "id"), value["file_name"]
        if not isinstance(file_name, str) or not file_name:
            raise self.wrong(item, f"image {key!r}: file_name is {file_name!r}, expected a text")
        for side in ("width", "height"):
            pixels = value[side]
            if isinstance(pixels, float) and pixels.is_integer():
                pixels = value[side] = int(pixels)
            if isinstance(pixels, bool) or not isinstance(pixels, int) or pixels <= 0:
                raise self.wrong(item, f"image '{file_name}': {side} is {pixels!r}, expected a whole number above 0")
        if key in self.images:
            other = self.images[key]
            raise self.wrong(
                item,
                f"image id {key!r} stands twice, for '{other.value['file_name']}' in line {other.line} and for "
                f"'{file_name}' here",
            )
        if file_name in self.names:
            other = self.images[self.names[file_name]]
            raise self.wrong(item, f"image '{file_name}' is listed twice, first in line {other.line}")
        if file_name not in self.present and not (self.folder / file_name).is_file():
            raise self.wrong(item, f"no image at {self.folder / file_name}")
        self.names[file_name] = key
        kept = {name: value[name] for name in ("file_name", "width", "height")}
        self.images[key] = Item(item.key, item.place, kept, item.line)

    def _category(self, item: Item) -> None:
        key = self._id(item, "id")
        others = [type(other) for other in self.categories]
        if others and type(key) is not others[0]:
            first = next(iter(self.categories))
            raise self.wrong(item, f"category ids are of several kinds: {first!r} and {key!r}")
        if not isinstance(item.value["name"], str | int):
            raise self.wrong(item, f"category {key!r}: name is {item.value['name']!r}, expected a text")
        if key in self.categories or str(item.value["name"]) in (one.value["name"] for one in self.categories.values()):
            first_line = min([item.line, *(one.line for one in self.categories.values())])
            raise InputError(
                f"{self.json_file}:{first_line}: two categories have the same id or name: {key!r}, "
                f"'{item.value['name']}'"
            )
        self.categories[key] = Item(item.key, item.place, {"name": str(item.value["name"])}, item.line)

    def _annotation(self, item: Item) -> None:
        value = item.value
        image, category = (self._numbered(item, key) for key in ("image_id", "category_id"))
        box = value["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(edge) for edge in box):
            raise self.wrong(item, f"bbox is {box}, expected [x, y, width, height]")
        x, y, width, height = map(float, box)
        if not all(map(math.isfinite, (x, y, width, height))):
            raise self.wrong(item, f"bbox is {box}, which is not finite")
        if width < 0 or height < 0:
            raise self.wrong(item, f"bbox is {box}, whose width or height is less than 0")
        area = value.get("area", width * height)
        if not _is_number(area) or not math.isfinite(area) or area < 0:
            raise self.wrong(item, f"area is {area!r}, expected a number of pixels")
        crowd = value.get("iscrowd", 0)
        if crowd not in (0, 1, None):
            raise self.wrong(item, f"iscrowd is {crowd!r}, expected 0 or 1")
        segmentation = value.get("segmentation") or None
        try:
            mask = packed(segmentation) if isinstance(segmentation, list | dict | None) else None
        except (ValueError, TypeError):
            mask = None
        if mask is None or (isinstance(segmentation, list) and any(len(part) % 2 for part in segmentation)):
            raise self.wrong(item, fault_of(segmentation, 1, 1) or "segmentation is neither polygons nor run lengths")
        self.packer.add(image, category, (x, y, x + width, y + height), float(area), bool(crowd), mask, item.line)
        self.own_ids.append(value.get("id"))

    def _id(self, item: Item, key: str) -> int | str:
        value = item.value[key]
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise self.wrong(item, f"{key} is {value!r}, expected a whole number or a text")
        return value

    def _numbered(self, item: Item, key: str) -> int:
        numbers = self.named[key]
        return numbers.setdefault(self._id(item, key), len(numbers))

    def objects(self, name: str, split: str) -> ObjectSet:
        if not self.images:
            raise InputError(f"{self.json_file}:1: the list of images is empty")
        ids = sorted(self.categories)
        classes = tuple(self.categories[key].value["name"] for key in ids)
        image_of = self._places("image_id", list(self.images), "images")
        category_of = self._places("category_id", ids, f"{len(ids)} categories")
        records = [item.value for item in self.images.values()]
        sizes = np.array([(one["width"], one["height"]) for one in records], dtype=np.int64)
        boxes, keep = self._boxes(name, image_of, sizes)
        annotations, first = self.packer.annotations(keep, image_of, category_of, boxes, len(records))
        numbers = all(isinstance(key, int) for key in self.images)
        images = PackedImages(
            self.folder,
            np.array([str(key).encode() for key in self.images]),
            np.array([one["file_name"].encode() for one in records]),
            sizes,
            first,
            annotations,
        )
        counted = ~annotations.crowd
        has_masks = bool(counted.any()) and bool(
            (annotations.mask_at[counted, 1] > annotations.mask_at[counted, 0]).all()
        )
        category_ids = tuple(ids) if all(isinstance(key, int) for key in ids) else None
        return ObjectSet(name, split, classes, images, has_masks, category_ids, numbers)

    def _places(self, key: str, known: list[Any], what: str) -> np.ndarray:
        """Number in `named` -> place among those the file has; the first annotation of another one is told."""
        place_of = {value: place for place, value in enumerate(known)}
        places = np.array([place_of.get(value, -1) for value in self.named[key]], dtype=np.int64)
        if (places < 0).any():
            given = np.array(self.packer.image if key == "image_id" else self.packer.category, dtype=np.int64)
            row = int(np.flatnonzero(places[given] < 0)[0])
            value = list(self.named[key])[int(given[row])]
            raise InputError(f"{self._at(row)}{key} {value!r} is none of the file's {what}")
        return places

    def _at(self, row: int) -> str:
        own = self.own_ids[row]
        return f"{self.json_file}:{self.packer.line[row]}: {'' if own is None else f'annotation {own!r}: '}"

    def _boxes(self, name: str, image_of: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Boxes cut to their images, and which have an area; masks of run lengths are held to the image's size."""
        packer = self.packer
        boxes = np.array(packer.box, dtype=float).reshape(-1, 4)
        keep = np.ones(len(packer), dtype=bool)
        begin = 0
        for row in range(len(packer)):
            width, height = sizes[image_of[packer.image[row]]].tolist()
            end = packer.mask_end[row]
            if end > begin and packer.masks[begin] == ord("j"):
                fault = fault_of(unpacked(bytes(packer.masks[begin:end])), height, width)
                if fault:
                    raise InputError(f"{self._at(row)}{fault}")
            begin = end
            try:
                box = checked_box(tuple(boxes[row].tolist()), width, height, "")
            except InputError as error:
                raise InputError(f"{self._at(row)}{str(error).removeprefix(': ')}") from None
            keep[row] = box is not None
            if box is not None:
                boxes[row] = box
        if not keep.all():
            dropped = np.flatnonzero(~keep)
            log.warning(
                "data set '%s': %d boxes without area are left out, the first at %s:%d",
                *(name, len(dropped), self.json_file, packer.line[int(dropped[0])]),
            )
        return boxes, keep


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
