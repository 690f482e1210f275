"""A split as the gate looks at it, whatever kind of set it is of: how each image is read and what is drawn over it.

Every kind is read by the very functions that evaluation reads it by.

Shapes: N images, K classes, H W size.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageDraw

from pretrain.data.catalog import Catalog
from pretrain.data.entries import CocoEntry, Entry, MasksEntry, ScenesEntry, VocEntry
from pretrain.data.images import ImageSet
from pretrain.data.looked_at import fault_of
from pretrain.data.objects import ObjectSet
from pretrain.data.readers.imagefolder import Files
from pretrain.data.readers.masks import IGNORE, MaskSet, look
from pretrain.runtime.errors import InputError

_BOX = (255, 48, 48)
_SHOWN_PX = 480  # boxes and masks are drawn at no more than this: a thumbnail shows no more


@dataclass(frozen=True)
class Subject:
    """One split.

    Attributes:
        opened: the split as evaluation has it.
        images: pixels, headers and digests; its labels are which classes an image shows.
        counts: int64 (K,), how many `counted` there are of each class.
        read: image number -> uint8 (H, W, 3) as evaluation reads it, annotations included; InputError where it refuses.
        pixels: the same without a look at the annotations: what is to be shown.
        drawn: image number, pixels and a class -> the picture with the boxes of that class, or its mask, on it.
        facts: more lines for the table, label -> text.
        misfits: what the headers alone show that `read` will refuse, a sentence each.
    """

    opened: ImageSet | ObjectSet | MaskSet
    images: ImageSet
    counts: np.ndarray
    counted: str
    read: Callable[[int], np.ndarray]
    pixels: Callable[[int], np.ndarray]
    drawn: Callable[[int, np.ndarray, int], Image.Image]
    facts: dict[str, str]
    misfits: tuple[str, ...] = ()

    @property
    def split(self) -> str:
        """Of the catalog."""
        return self.images.split

    def of_class(self, label: int) -> np.ndarray:
        """Rows (M,) of the images that show a class."""
        labels = self.images.labels
        return np.flatnonzero(labels[:, label] if self.images.multi_label else labels == label)


def open_subject(catalog: Catalog, name: str, entry: Entry, split: str) -> Subject:
    """A split, opened by the reader of its kind. Raises InputError as the reader does."""
    if isinstance(entry, VocEntry | CocoEntry | ScenesEntry):
        return of_objects(catalog.objects(name, split))
    if isinstance(entry, MasksEntry):
        return of_masks(catalog.masks(name, split))
    # What is not measured needs no labels.
    return of_labelled(catalog.pictures(name, split) if entry.splits() == ("train",) else catalog.images(name, split))


def of_labelled(images: ImageSet) -> Subject:
    """Images with a label each, or several."""
    counts = images.labels.sum(axis=0) if images.multi_label else np.bincount(images.labels, minlength=1)
    counts = np.pad(counts, (0, max(0, len(images.classes) - len(counts))))
    return Subject(images, images, counts, "images", images.decode, images.decode, _as_it_is, {})


def of_objects(objects: ObjectSet) -> Subject:
    """Images with boxes."""
    shows = np.zeros((len(objects), len(objects.classes)), dtype=bool)
    counts = np.zeros(len(objects.classes), dtype=np.int64)
    for row, image in enumerate(objects.images):
        for thing in image.objects:
            shows[row, thing.category] = True
            counts[thing.category] += 1
    images = _image_set([image.path for image in objects.images], objects.name, objects.split, objects.classes, shows)
    things = [thing for image in objects.images for thing in image.objects]
    empty = sum(not image.objects for image in objects.images)
    facts = {
        "objects": f"{len(things)}, {sum(thing.crowd for thing in things)} crowds, "
        f"{sum(thing.difficult for thing in things)} difficult{', with masks' if objects.has_masks else ''}",
        "without objects": f"{empty} images",
    }
    headers = images.headers()
    misfits = []
    for row, image in enumerate(objects.images):
        size = sorted(headers[row, :2].tolist())
        if size[0] and size != sorted((image.width, image.height)):
            width, height = headers[row, :2].tolist()
            misfits.append(
                f"{image.path} is {width} x {height} pixels, but its annotation says {image.width} x {image.height}"
            )

    def drawn(row: int, pixels: np.ndarray, label: int) -> Image.Image:
        picture = _small(Image.fromarray(pixels))
        scale = picture.width / pixels.shape[1]
        draw = ImageDraw.Draw(picture)
        for thing in objects.images[row].objects:
            if thing.category == label:
                x0, y0, x1, y1 = (edge * scale for edge in thing.box)
                draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=_BOX, width=4)
        return picture

    def pixels_of(row: int) -> np.ndarray:
        return objects.images[row].pixels()

    def read(row: int) -> np.ndarray:
        if fault := fault_of(objects.images[row], masks=objects.has_masks):
            raise InputError(fault)
        return pixels_of(row)

    return Subject(objects, images, counts, "objects", read, pixels_of, drawn, facts, tuple(misfits))


def of_masks(masks: MaskSet) -> Subject:
    """Images with class masks. Which classes an image shows, and their pixels, are known once it has been read."""
    shows = np.zeros((len(masks), len(masks.classes)), dtype=bool)
    images = _image_set([image for image, _ in masks.pairs], masks.name, masks.split, masks.classes, shows)

    of_image, of_mask = images.headers(), _image_set([mask for _, mask in masks.pairs], "", "", (), shows).headers()
    misfits = []
    for row in np.flatnonzero((of_image[:, :2] != of_mask[:, :2]).any(axis=1) & (of_image[:, 0] * of_mask[:, 0] > 0)):
        (width, height), (mask_width, mask_height) = of_image[row, :2].tolist(), of_mask[row, :2].tolist()
        image, mask = masks.pairs[row]
        misfits.append(f"mask {mask} is {mask_width}x{mask_height} pixels, but its image {image} is {width}x{height}")

    def drawn(row: int, pixels: np.ndarray, label: int) -> Image.Image:
        labels = masks.mask(row)
        table = np.full((IGNORE + 1, 3), 224, dtype=np.uint8)
        table[: len(masks.palette)] = masks.palette
        colours = table[labels]
        if colours.shape != pixels.shape:
            return _small(Image.fromarray(pixels))
        return _small(Image.fromarray((pixels // 2 + colours // 2).astype(np.uint8)))

    counts = np.zeros(len(masks.classes), dtype=np.int64)
    one_at_a_time = Lock()

    def read(row: int) -> np.ndarray:
        pixels = np.bincount(look(masks, row)[0].ravel(), minlength=IGNORE + 1)[: len(counts)]
        with one_at_a_time:
            np.add(counts, pixels, out=counts)
        shows[row] = pixels > 0
        return masks.image(row)

    return Subject(masks, images, counts, "pixels", read, masks.image, drawn, {}, tuple(misfits))


def _image_set(paths: list[Path], name: str, split: str, classes: tuple[str, ...], shows: np.ndarray) -> ImageSet:
    root = Path(os.path.commonpath([path.parent for path in paths]))
    names = np.array([os.fsencode(path.relative_to(root)) for path in paths])
    return ImageSet(Files(root, names), name=name, split=split, classes=classes, labels=shows)


def _as_it_is(row: int, pixels: np.ndarray, label: int) -> Image.Image:
    return Image.fromarray(pixels)


def _small(picture: Image.Image) -> Image.Image:
    picture.thumbnail((_SHOWN_PX, _SHOWN_PX))
    return picture
