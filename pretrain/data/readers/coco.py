"""COCO's JSON: images, categories and annotations with boxes and, where there are, masks."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.data.entries import CocoEntry, CocoSplit
from pretrain.data.objects import ImageObject, ImageObjects, ObjectSet, checked_box
from pretrain.data.places import Places
from pretrain.runtime.errors import InputError

log = logging.getLogger("fastmoco")


def open_split(places: Places, name: str, entry: CocoEntry, split: str) -> ObjectSet:
    """One split of a `coco` entry. Raises InputError as `read_coco` does."""
    place: CocoSplit = getattr(entry, split)
    return read_coco(places.resolve(place.images), places.resolve(place.json_file), name=name, split=split)


def read_coco(images: Path, json_file: Path, *, name: str, split: str) -> ObjectSet:
    """The images of `json_file` that lie in `images`. Classes are the file's categories, in the order of their ids.

    Raises:
        InputError: a missing file, JSON that cannot be read, a category or image that an annotation names and the file
            lacks, or a box outside its image, with file and line; or a file without images.
    """
    source = _Source(json_file)
    categories = sorted(source.items("categories", ("id", "name")), key=lambda item: item[1]["id"])
    index_of = {item["id"]: index for index, (_, item) in enumerate(categories)}
    classes = tuple(str(item["name"]) for _, item in categories)
    if len(index_of) != len(categories) or len(set(classes)) != len(classes):
        raise InputError(f"{source.where('categories', 0)}: two categories have the same id or name")
    records = {}
    present = {entry.name for entry in os.scandir(images)} if images.is_dir() else set()
    for place, item in source.items("images", ("id", "file_name", "width", "height")):
        if item["file_name"] not in present and not (images / item["file_name"]).is_file():
            raise InputError(f"{source.where('images', place)}: no image at {images / item['file_name']}")
        records[item["id"]] = item
    if not records:
        raise InputError(f"{source.where('images')}: the list of images is empty")
    objects: dict[Any, list[ImageObject]] = {image_id: [] for image_id in records}
    dropped: list[int] = []
    for place, item in source.items("annotations", ("image_id", "category_id", "bbox")):
        if item["category_id"] not in index_of:
            raise InputError(
                f"{source.where('annotations', place)}: category_id {item['category_id']} is none of the file's "
                f"{len(classes)} categories"
            )
        if item["image_id"] not in records:
            raise InputError(
                f"{source.where('annotations', place)}: image_id {item['image_id']} is none of the file's images"
            )
        record = records[item["image_id"]]
        try:
            x, y, width, height = (float(value) for value in item["bbox"])
        except (TypeError, ValueError):
            raise InputError(
                f"{source.where('annotations', place)}: bbox is {item['bbox']}, expected [x, y, width, height]"
            ) from None
        edges = (x, y, x + width, y + height)
        # The line of an annotation takes a second look at the file: asked for only where it is told.
        try:
            box = checked_box(edges, record["width"], record["height"], "")
        except InputError as error:
            raise InputError(f"{source.where('annotations', place)}{error}") from None
        if box is None:
            dropped.append(place)
            continue
        objects[item["image_id"]].append(
            ImageObject(
                category=index_of[item["category_id"]],
                box=box,
                area=float(item.get("area", width * height)),
                crowd=bool(item.get("iscrowd", 0)),
                segmentation=item.get("segmentation") or None,
            )
        )
    if dropped:
        first = source.where("annotations", dropped[0])
        log.warning("data set '%s': %d boxes without area are left out, the first at %s", name, len(dropped), first)
    found = tuple(
        ImageObjects(str(key), images / item["file_name"], item["width"], item["height"], tuple(objects[key]))
        for key, item in records.items()
    )
    counted = [thing for image in found for thing in image.objects if not thing.crowd]
    has_masks = bool(counted) and all(thing.segmentation is not None for thing in counted)
    return ObjectSet(name, split, classes, found, has_masks)


class _Source:
    """A COCO file, and the line where an item of one of its lists stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._content: Any = json.loads(self._text())
        except json.JSONDecodeError as error:
            raise InputError(f"{path}:{error.lineno}: not valid JSON: {error.msg}") from None
        if not isinstance(self._content, dict):
            raise InputError(f"{path}:1: expected an object with images, categories and annotations")

    def items(self, key: str, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, Any]]]:
        """The items of a list with their places; each has the keys that are needed."""
        items = self._content.get(key)
        if not isinstance(items, list):
            raise InputError(f"{self.path}:1: key '{key}' is missing or no list")
        for place, item in enumerate(items):
            missing = [name for name in needed if name not in item] if isinstance(item, dict) else list(needed)
            if missing:
                raise InputError(f"{self.where(key, place)}: an item of '{key}' has no '{missing[0]}'")
            yield place, item

    def where(self, key: str, place: int | None = None) -> str:
        """`FILE:LINE` of the list's key, or of the item at `place`, counted from the text itself."""
        text, decoder = self._text(), json.JSONDecoder()
        position = _skip(text, text.index("{") + 1)
        while text[position] == '"':
            name, position = decoder.raw_decode(text, position)
            value_at = _skip(text, _skip(text, position) + 1)
            if name == key:
                at = value_at if place is None else _nth(text, decoder, value_at, place)
                return f"{self.path}:{text.count(chr(10), 0, at) + 1}"
            position = _skip(text, decoder.raw_decode(text, value_at)[1])
            position = _skip(text, position + 1)
        raise AssertionError(f"{self.path} has no '{key}'")

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8")
        except (FileNotFoundError, IsADirectoryError):
            raise InputError(f"no file at {self.path}") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path} is not UTF-8: {error}") from None


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _nth(text: str, decoder: json.JSONDecoder, start: int, place: int) -> int:
    position = _skip(text, start + 1)
    for _ in range(place):
        position = _skip(text, decoder.raw_decode(text, position)[1])
        position = _skip(text, position + 1)
    return position
