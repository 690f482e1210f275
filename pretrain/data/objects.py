"""Images with objects: boxes, classes and, where there are, masks. What VOC trees and COCO files are both read into.

A box is (x0, y0, x1, y1) in pixels between the image's edges: x0 is the left edge of the leftmost pixel, x1 the right
edge of the rightmost, so that x1 - x0 is a width, and a box over the whole image is (0, 0, width, height).
"""

from __future__ import annotations

import hashlib
import math
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.content import contents
from pretrain.data.decode import read_image
from pretrain.runtime.errors import InputError

Box = tuple[float, float, float, float]
# Sets whose pixels count from 0 where the format counts from 1, and COCO's rounding, reach this far over an edge.
BORDER_PX = 1.0


@dataclass(frozen=True, slots=True)
class ImageObject:
    """One object of an image.

    Attributes:
        category: index into the set's classes.
        box: see above.
        area: of the mask where there is one, of the box otherwise, in pixels.
        difficult: VOC's flag: found or not, it does not count.
        crowd: COCO's flag: a group, not trained on, and what is found in it does not count.
        segmentation: polygons or run lengths as COCO writes them; None where there is none.
        instance: the object's value in the image's `instances` file; None where there is none.
    """

    category: int
    box: Box
    area: float
    difficult: bool = False
    crowd: bool = False
    segmentation: Any = None
    instance: int | None = None


@dataclass(frozen=True, slots=True)
class ImageObjects:
    """An image's file, its size in pixels and its objects; `instances` is a PNG whose pixels say which object."""

    image_id: str
    path: Path
    width: int
    height: int
    objects: tuple[ImageObject, ...]
    instances: Path | None = None

    def pixels(self) -> np.ndarray:
        """uint8 (H, W, 3) RGB, turned upright as EXIF says (detectron2's `read_image`), which boxes are drawn on.

        Raises:
            InputError: the file is damaged, or its size is not what its annotation says.
        """
        found = read_image(self.path, upright=True)
        if found.shape[:2] != (self.height, self.width):
            raise InputError(
                f"{self.path} is {found.shape[1]} x {found.shape[0]} pixels, but its annotation says "
                f"{self.width} x {self.height}"
            )
        return found


class Images(Sequence[ImageObjects]):
    """Images with objects that are made when they are asked for, for sets too large for a tuple."""

    @abstractmethod
    def sizes(self) -> np.ndarray:
        """int64 (N, 2): width and height of each image."""

    @abstractmethod
    def subset(self, numbers: np.ndarray) -> Images:
        """Some of the images, in the order of `numbers`."""

    @abstractmethod
    def taught(self) -> np.ndarray:
        """bool (N,): which images hold an object that is no crowd."""

    @abstractmethod
    def only_polygons(self) -> bool:
        """Whether every mask of an object that is no crowd is drawn by polygons, and there is one."""

    @abstractmethod
    def paths(self) -> Iterator[Path]:
        """The images' files."""

    @abstractmethod
    def content(self) -> bytes:
        """A hash of the annotations of these images; their files do not count."""


@dataclass(frozen=True)
class ObjectSet:
    """One split of a set of images with objects.

    Attributes:
        name, split, classes: of the catalog.
        images: in a tuple, or packed (`pretrain.data.packed`) where they are many.
        has_masks: each object that is no crowd has a mask.
        category_ids: the file's own number of each class; None where it has none (VOC).
        integer_ids: the file's image ids are whole numbers.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    images: Sequence[ImageObjects]
    has_masks: bool
    category_ids: tuple[int, ...] | None = None
    integer_ids: bool = False

    def __len__(self) -> int:
        return len(self.images)

    def sizes(self) -> np.ndarray:
        """int64 (N, 2): width and height of each image."""
        if isinstance(self.images, Images):
            return self.images.sizes()
        return np.array([(image.width, image.height) for image in self.images], dtype=np.int64).reshape(-1, 2)

    def subset(self, numbers: np.ndarray) -> ObjectSet:
        """The same set with some of its images alone, in the order of `numbers`."""
        if isinstance(self.images, Images):
            return replace(self, images=self.images.subset(numbers))
        return replace(self, images=tuple(self.images[number] for number in numbers))

    def taught(self) -> np.ndarray:
        """bool (N,): which images hold an object that is no crowd."""
        if isinstance(self.images, Images):
            return self.images.taught()
        return np.array([any(not thing.crowd for thing in image.objects) for image in self.images], dtype=bool)

    def only_polygons(self) -> bool:
        """Whether every mask of an object that is no crowd is drawn by polygons, and there is one."""
        if isinstance(self.images, Images):
            return self.images.only_polygons()
        things = (thing for image in self.images for thing in image.objects)
        return {type(thing.segmentation) for thing in things if not thing.crowd} == {list}

    def identity(self) -> str:
        """A hash of what is annotated and of names and contents of the files, not of where they lie."""
        digest = hashlib.sha256(repr(self.classes).encode())
        packed = isinstance(self.images, Images)
        if isinstance(self.images, Images):
            digest.update(self.images.content())
        files = [path for image in self.files() for path in image]
        root = os.path.commonpath([path.parent for path in files])
        names = [os.fsencode(path.relative_to(root)) for path in files]
        digest.update(contents(Path(root), np.array(names)).hash([os.fsencode(path.name) for path in files]).encode())
        if not packed:
            for one in self.images:
                digest.update(repr((one.image_id, one.width, one.height, one.objects)).encode())
        return digest.hexdigest()

    def files(self) -> Iterator[tuple[Path, ...]]:
        """The files of each image: its own and, where there is one, that of its objects' masks."""
        if isinstance(self.images, Images):
            yield from ((path,) for path in self.images.paths())
            return
        for image in self.images:
            yield (image.path,) if image.instances is None else (image.path, image.instances)


def checked_box(box: Box, width: int, height: int, where: str) -> Box | None:
    """`box` cut to the image; None for a box without area, which some sets hold and no detector can find.

    Raises:
        InputError: the box is not finite or reaches over the image's edge by more than `BORDER_PX`; `where` is named.
    """
    x0, y0, x1, y1 = box
    if not all(map(math.isfinite, box)):
        raise InputError(f"{where}: the box {box} holds a value that is not finite")
    if x1 <= x0 or y1 <= y0:
        return None
    if min(x0, y0) < -BORDER_PX or x1 > width + BORDER_PX or y1 > height + BORDER_PX:
        raise InputError(f"{where}: the box {box} lies outside the image of {width} x {height} pixels")
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
