"""Images with objects: boxes, classes and, where there are, masks. What VOC trees and COCO files are both read into.

A box is (x0, y0, x1, y1) in pixels between the image's edges: x0 is the left edge of the leftmost pixel, x1 the right
edge of the rightmost, so that x1 - x0 is a width, and a box over the whole image is (0, 0, width, height).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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


@dataclass(frozen=True)
class ObjectSet:
    """One split of a set of images with objects; `has_masks`: each object that is no crowd has a mask."""

    name: str
    split: str
    classes: tuple[str, ...]
    images: tuple[ImageObjects, ...]
    has_masks: bool

    def __len__(self) -> int:
        return len(self.images)


def checked_box(box: Box, width: int, height: int, where: str) -> Box | None:
    """`box` cut to the image; None for a box without area, which some sets hold and no detector can find.

    Raises:
        InputError: the box reaches further over the image's edge than `BORDER_PX`; `where` is named.
    """
    x0, y0, x1, y1 = box
    if x1 <= x0 or y1 <= y0:
        return None
    if min(x0, y0) < -BORDER_PX or x1 > width + BORDER_PX or y1 > height + BORDER_PX:
        raise InputError(f"{where}: the box {box} lies outside the image of {width} x {height} pixels")
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
