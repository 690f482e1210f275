"""Images with objects in a few arrays: an object is made when it is asked for, and worker processes share the pages.

COCO's train2017 has 118,000 images and 860,000 objects. As Python objects its annotations take gigabytes, and a worker
copies all that it touches, since looking at an object counts a reference to it.

Shapes: N images, M objects.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from pretrain.data.objects import Box, ImageObject, ImageObjects, Images

_HUNDREDTHS, _FLOATS, _JSON = b"hfj"  # how a mask is kept: polygons of whole hundredths, of any numbers, or run lengths


@dataclass(frozen=True)
class Annotations:
    """The objects of all images, in the order of the images.

    Attributes:
        category: int32 (M,). box: float64 (M, 4). area: float64 (M,). crowd: bool (M,).
        mask_at: int64 (M, 2), where each object's mask begins and ends in `masks`; nothing between: it has none.
        masks: bytes of all.
    """

    category: np.ndarray
    box: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    mask_at: np.ndarray
    masks: np.ndarray

    def object(self, number: int) -> ImageObject:
        """One of them."""
        begin, end = self.mask_at[number].tolist()
        return ImageObject(
            category=int(self.category[number]),
            box=tuple(self.box[number].tolist()),
            area=float(self.area[number]),
            crowd=bool(self.crowd[number]),
            segmentation=unpacked(self.masks[begin:end].tobytes()) if end > begin else None,
        )


class PackedImages(Images):
    """The images of a set; `numbers` are those of the whole file that this one holds."""

    def __init__(
        self,
        folder: Path,
        ids: np.ndarray,
        names: np.ndarray,
        sizes: np.ndarray,
        first: np.ndarray,
        annotations: Annotations,
        numbers: np.ndarray | None = None,
    ) -> None:
        """`ids`, `names`: bytes (N,); `sizes`: int64 (N, 2); `first`: (N + 1,), where the objects of each begin."""
        self.folder, self.ids, self.names, self._sizes = folder, ids, names, sizes
        self.first, self.annotations = first, annotations
        self.numbers = np.arange(len(ids)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> ImageObjects: ...
    @overload
    def __getitem__(self, index: slice) -> PackedImages: ...
    def __getitem__(self, index: int | slice) -> ImageObjects | PackedImages:
        if isinstance(index, slice):
            return self.subset(np.arange(len(self))[index])
        number = int(self.numbers[index])
        width, height = self._sizes[number].tolist()
        objects = range(int(self.first[number]), int(self.first[number + 1]))
        return ImageObjects(
            self.ids[number].decode(),
            self.folder / self.names[number].decode(),
            width,
            height,
            tuple(self.annotations.object(place) for place in objects),
        )

    def sizes(self) -> np.ndarray:
        """int64 (N, 2): width and height of each image."""
        return self._sizes[self.numbers]

    def subset(self, numbers: np.ndarray) -> PackedImages:
        """Some of the images, in the order of `numbers`; the arrays are shared."""
        kept = self.numbers[np.asarray(numbers, dtype=np.int64)]
        return PackedImages(self.folder, self.ids, self.names, self._sizes, self.first, self.annotations, kept)

    def taught(self) -> np.ndarray:
        """bool (N,): which images hold an object that is no crowd."""
        counted = np.concatenate([[0], np.cumsum(~self.annotations.crowd)])
        return (counted[self.first[1:]] > counted[self.first[:-1]])[self.numbers]

    def only_polygons(self) -> bool:
        """Whether every mask of an object that is no crowd is drawn by polygons, and there is one."""
        held = np.flatnonzero(~self.annotations.crowd)
        begin, end = self.annotations.mask_at[held].T
        if not len(held) or (begin == end).any():
            return False
        return bool(np.isin(self.annotations.masks[begin], [_HUNDREDTHS, _FLOATS]).all())

    def paths(self) -> Iterator[Path]:
        """The images' files."""
        return (self.folder / self.names[number].decode() for number in self.numbers)

    def content(self) -> bytes:
        """A hash of the annotations of these images; their files do not count."""
        found, digest = self.annotations, hashlib.sha256()
        arrays = (self.ids, self.names, self._sizes, self.first, self.numbers, found.category, found.box, found.area)
        for values in (*arrays, found.crowd, found.mask_at, found.masks):
            digest.update(np.ascontiguousarray(values).data)
        return digest.digest()


class Packer:
    """Takes objects in any order, before or after their images, and gives the arrays."""

    def __init__(self) -> None:
        self.image, self.category, self.line = array("q"), array("q"), array("q")
        self.box, self.area, self.crowd = array("d"), array("d"), array("b")
        self.mask_end, self.masks = array("q"), bytearray()

    def __len__(self) -> int:
        return len(self.image)

    def add(self, image: int, category: int, box: Box, area: float, crowd: bool, mask: bytes, line: int) -> None:
        """One object; `mask` is what `packed` made of it, b"" for none; `line` is where the file has it."""
        self.image.append(image)
        self.category.append(category)
        self.line.append(line)
        self.box.extend(box)
        self.area.append(area)
        self.crowd.append(crowd)
        self.masks += mask
        self.mask_end.append(len(self.masks))

    def annotations(
        self, keep: np.ndarray, image_of: np.ndarray, category_of: np.ndarray, boxes: np.ndarray, images: int
    ) -> tuple[Annotations, np.ndarray]:
        """The objects `keep` (bool) by image, with what the numbers of `add` mean; and where each image's begin."""
        image = image_of[np.array(self.image, dtype=np.int64)]
        chosen = np.flatnonzero(keep)
        chosen = chosen[np.argsort(image[chosen], kind="stable")]
        ends = np.array(self.mask_end, dtype=np.int64)
        mask_at = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1) if len(ends) else np.zeros((0, 2), int)
        found = Annotations(
            category_of[np.array(self.category, dtype=np.int64)][chosen].astype(np.int32),
            boxes[chosen],
            np.array(self.area, dtype=float)[chosen],
            np.array(self.crowd, dtype=bool)[chosen],
            mask_at[chosen].astype(np.int64),
            np.frombuffer(self.masks, dtype=np.uint8),
        )
        return found, np.searchsorted(image[chosen], np.arange(images + 1))


def packed(segmentation: Any) -> bytes:
    """A mask that has no fault (`run_lengths.fault_of`) as bytes.

    Raises:
        ValueError: polygons that are not lists of numbers.
    """
    if not segmentation:
        return b""
    if isinstance(segmentation, dict):
        return bytes([_JSON]) + json.dumps(segmentation, separators=(",", ":")).encode()
    lengths = np.array([len(polygon) for polygon in segmentation], dtype=np.int32)
    flat = np.array([value for polygon in segmentation for value in polygon])
    if flat.dtype.kind not in "if" or not np.isfinite(flat).all():
        raise ValueError("polygons hold something that is no number")
    # COCO writes two decimals: a whole number of hundredths is the same number in half the room.
    hundredths = np.rint(flat * 100)
    exact = bool((hundredths / 100 == flat).all() and (np.abs(hundredths) < 2**31).all())
    values = hundredths.astype(np.int32) if exact else flat.astype(float)
    head = bytes([_HUNDREDTHS if exact else _FLOATS]) + np.int32(len(lengths)).tobytes()
    return head + lengths.tobytes() + values.tobytes()


def unpacked(data: bytes) -> Any:
    """What `packed` was given; numbers of polygons are floats."""
    if data[0] == _JSON:
        return json.loads(data[1:])
    count = int(np.frombuffer(data, np.int32, 1, 1)[0])
    lengths = np.frombuffer(data, np.int32, count, 5)
    at = 5 + 4 * count
    if data[0] == _HUNDREDTHS:
        values = np.frombuffer(data, np.int32, int(lengths.sum()), at) / 100
    else:
        values = np.frombuffer(data, np.float64, int(lengths.sum()), at)
    ends = np.cumsum(lengths)
    return [values[end - length : end].tolist() for end, length in zip(ends, lengths, strict=True)]
