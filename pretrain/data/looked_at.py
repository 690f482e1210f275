"""Every image of a set of objects is decoded once before a run, so that a damaged one is told in the beginning.

What was found whole is remembered by the set's content: the next run on it begins at once.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pretrain.data.objects import ImageObjects, ObjectSet
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_json
from pretrain.runtime.progress import progress

_VERSION = 1  # of what is looked at
_LISTED = 10  # faults that are written out


def check_objects(objects: ObjectSet, cache: Path, *, masks: bool) -> None:
    """Decode every image of a split, by threads, and with `masks` every file of objects' masks.

    Args:
        objects: the split.
        cache: directory for what was found whole; it holds for as long as no file changes.
        masks: whether the run reads masks.

    Raises:
        InputError: the images that are damaged or of another size than their annotation says, by name.
    """
    place = Path(cache) / "objects" / f"{objects.identity()}-{'masks' if masks else 'boxes'}-{_VERSION}.json"
    if place.is_file():
        return

    what = f"checking images of {objects.name} {objects.split}"
    faults = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, progress(what, len(objects), unit="images") as bar:
        # By number: an image with its objects is made when its turn comes.
        for told in pool.map(lambda number: fault_of(objects.images[number], masks=masks), range(len(objects))):
            bar.advance()
            if told:
                faults.append(told)
    if faults:
        more = f"; and {len(faults) - _LISTED} more" if len(faults) > _LISTED else ""
        raise InputError("; ".join(faults[:_LISTED]) + more)
    write_json(place, {"images": len(objects)})


def fault_of(image: ImageObjects, *, masks: bool) -> str:
    """What is wrong with the files of an image, "" when it decodes and has the size that its annotation says."""
    try:
        image.pixels()
        if masks and image.instances is not None:
            read_instances(image)
    except InputError as error:
        return str(error)
    return ""


def read_instances(image: ImageObjects) -> np.ndarray:
    """(H, W) uint8 or int32, the number of each pixel's object in the file `image.instances`.

    Raises:
        InputError: the file is damaged, no map of numbers, of another size, or lacks an object of the image.
    """
    path = image.instances
    assert path is not None
    try:
        with Image.open(path) as found:
            if found.mode not in ("L", "P", "I", "I;16", "I;16B", "1"):
                raise InputError(
                    f"masks of objects {path}: mode is {found.mode}, expected one channel of object numbers (mode L "
                    "or P)"
                )
            numbers = np.asarray(found)
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise InputError(f"masks of objects {path} cannot be read: {error}") from None
    if numbers.shape != (image.height, image.width):
        raise InputError(
            f"masks of objects {path} are {numbers.shape[1]} x {numbers.shape[0]} pixels, but the image is "
            f"{image.width} x {image.height}"
        )
    present = np.unique(numbers)
    for thing in image.objects:
        if thing.instance is not None and not thing.crowd and thing.instance not in present:
            raise InputError(f"masks of objects {path} hold no pixel of object {thing.instance} of {image.image_id}")
    return numbers
