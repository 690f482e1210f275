"""Images with class masks: the catalog's `masks` format and VOC's SegmentationClass layout.

Shapes: H W size, K classes. Labels here are 0..K-1 with `IGNORE` for pixels that do not count, whatever the files hold.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretrain.data.content import contents
from pretrain.data.decode import read_image
from pretrain.data.entries import MasksEntry
from pretrain.data.names import SUFFIXES, is_image, is_system, kind_of
from pretrain.data.places import Places
from pretrain.data.readers.mask_values import IGNORE, MaskValues, mask_values
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import canonical_hash, write_json
from pretrain.runtime.progress import progress

__all__ = ["IGNORE", "MaskSet", "MaskStatistics", "check_masks", "demand_every_class", "mask_set", "open_split"]

log = logging.getLogger("fastmoco")

_ANY_MASK = ".png"  # the entry's default: any other image suffix is taken where there is no such file
_VERSION = 2  # of what a check looks at; 2 decodes the images too


@dataclass(frozen=True)
class MaskSet:
    """Images of one split with a class mask each. Files are opened when a sample is asked for.

    Attributes:
        name, split: of the catalog.
        classes: names of the K classes, in the order of their labels.
        values: what stands for which class in the files.
        palette: K colours, uint8 RGB, for pictures.
        pairs: (image, mask) files, sorted by name.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    values: MaskValues
    palette: tuple[tuple[int, int, int], ...]
    pairs: tuple[tuple[Path, Path], ...]

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def identity(self) -> str:
        """A hash of classes, names and contents of the files, not of where they lie: a copy of the set is the same."""
        files = [path for pair in self.pairs for path in pair]
        root = os.path.commonpath([path.parent for path in files])
        names = [os.fsencode(path.relative_to(root)) for path in files]
        found = contents(Path(root), np.array(names))
        meant = sorted(self.values.labels.items())
        told = meant if self.values.given else next(value for value, label in meant if label == IGNORE)
        return canonical_hash([list(self.classes), told, found.hash([os.fsencode(path.name) for path in files])])

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB as stored; EXIF orientation is left alone, as masks have none. InputError if damaged."""
        return read_image(self.pairs[index][0])

    def mask(self, index: int) -> np.ndarray:
        """(H, W) uint8: labels 0..K-1, `IGNORE` elsewhere. Raises InputError as `MaskValues.read` does."""
        return self.values.read(self.pairs[index][1])


@dataclass(frozen=True)
class MaskStatistics:
    """What one pass over a split found.

    Attributes:
        pixels: how many pixels each class has, K numbers.
        ignored: how many pixels do not count.
        median_short_side: of the images, in pixels.
    """

    pixels: tuple[int, ...]
    ignored: int
    median_short_side: float

    @property
    def majority_miou(self) -> float:
        """mIoU in percent of always saying the most frequent class: its share of the pixels over the classes seen."""
        seen = sum(count > 0 for count in self.pixels)
        return 100 * max(self.pixels) / sum(self.pixels) / seen


def open_split(places: Places, name: str, entry: MasksEntry, split: str) -> MaskSet:
    """One split of a `masks` entry.

    Raises:
        InputError: a missing folder, or an image whose mask is missing, which is named.
    """
    where = getattr(entry, split)
    image_dir, mask_dir = places.resolve(where.images), places.resolve(where.masks)
    for directory in (image_dir, mask_dir):
        if not directory.is_dir():
            raise InputError(f"data set '{name}', split '{split}': no folder at {directory}")
    pairs, left_out = [], Counter[str]()
    for image in sorted(path for path in image_dir.rglob("*") if path.is_file()):
        relative = image.relative_to(image_dir)
        if any(is_system(part) for part in relative.parts):
            continue
        if entry.image_suffix and not image.name.endswith(entry.image_suffix):
            continue
        if not entry.image_suffix and not is_image(image.name):
            left_out[kind_of(image.name)] += 1
            continue
        key = str(relative).removesuffix(entry.image_suffix or image.suffix)
        pairs.append((image, _mask_of(mask_dir, key, entry.mask_suffix)))
    if left_out:
        log.warning(
            "data set '%s', split '%s': %d files in %s are left out, their suffix is none of an image: %s",
            *(name, split, sum(left_out.values()), image_dir),
            ", ".join(f"{count} '{suffix}'" for suffix, count in sorted(left_out.items())),
        )
    palette = entry.palette or voc_palette(len(entry.classes))
    values = mask_values(places, name, entry)
    return mask_set(name, split, entry.classes, values, palette, pairs, f"no image in {image_dir}")


def _mask_of(folder: Path, key: str, suffix: str) -> Path:
    plain = folder / f"{key}{suffix}"
    if suffix != _ANY_MASK or plain.is_file():
        return plain
    others = [folder / f"{key}{ending}" for ending in SUFFIXES if (folder / f"{key}{ending}").is_file()]
    if len(others) > 1:
        raise InputError(f"two masks of one name: {others[0]} and {others[1]}; mask_suffix can say which is meant")
    return others[0] if others else plain


def check_masks(masks: MaskSet, cache: Path) -> MaskStatistics:
    """Decode every image and mask of a split once, with threads, and keep what was found for the next run.

    Args:
        masks: the split.
        cache: directory for the findings; they hold for as long as no file changes.

    Raises:
        InputError: the first file, by name, that is wrong: a mask of another size than its image, a value that
            stands for nothing, a mask of the wrong kind, an image or mask that does not decode.
    """
    place = Path(cache) / "masks" / f"{masks.identity}-{_VERSION}.json"
    if place.is_file():
        found = json.loads(place.read_text(encoding="utf-8"))
        return MaskStatistics(tuple(found["pixels"]), found["ignored"], found["median_short_side"])

    def counted(index: int) -> tuple[np.ndarray, int]:
        labels, size = look(masks, index)
        return np.bincount(labels.ravel(), minlength=IGNORE + 1), min(size)

    counts, short_sides = np.zeros(IGNORE + 1, dtype=np.int64), []
    what = f"checking images and masks of {masks.name} {masks.split}"
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, progress(what, len(masks), unit="images") as bar:
        for count, short_side in pool.map(counted, range(len(masks))):
            counts += count
            short_sides.append(short_side)
            bar.advance()
    pixels = tuple(int(count) for count in counts[: len(masks.classes)])
    if not sum(pixels):
        raise InputError(f"every pixel of data set '{masks.name}', split '{masks.split}', is ignored")
    statistics = MaskStatistics(pixels, int(counts[IGNORE]), float(np.median(short_sides)))
    write_json(
        place, {"pixels": pixels, "ignored": statistics.ignored, "median_short_side": float(np.median(short_sides))}
    )
    return statistics


def demand_every_class(masks: MaskSet, found: MaskStatistics) -> None:
    """Raises InputError: a class of which the split holds no pixel: nothing can be learned, or the values are wrong.

    Masks of 0 and 255 with two classes are the usual case: 255 is `ignore` there, and class 1 never occurs.
    """
    absent = [label for label, count in enumerate(found.pixels) if count == 0]
    if not absent:
        return
    present = [label for label, count in enumerate(found.pixels) if count]
    there = [f"{masks.values.of_class(label)} ({masks.classes[label]})" for label in present]
    if found.ignored:
        there.append(f"{masks.values.of_class(IGNORE)} (not counted)")
    others = f" (nor do {len(absent) - 1} other classes: {', '.join(masks.classes[i] for i in absent[1:6])})"
    raise InputError(
        f"data set '{masks.name}', split '{masks.split}': class '{masks.classes[absent[0]]}' never occurs, no mask "
        f"holds {masks.values.of_class(absent[0])}{others if absent[1:] else ''}; the masks hold {', '.join(there[:8])}"
        f"{' ...' if len(there) > 8 else ''}: say with `values` which value is which class, or take the class out of "
        "`classes`"
    )


def look(masks: MaskSet, index: int) -> tuple[np.ndarray, tuple[int, int]]:
    """A mask's labels, (H, W) uint8, and its image's size (H, W).

    Raises:
        InputError: as `MaskSet.mask` and `MaskSet.image`, or the two sizes differ.
    """
    labels, size = masks.mask(index), masks.image(index).shape[:2]
    if labels.shape != size:
        image, mask = masks.pairs[index]
        raise InputError(
            f"mask {mask} is {labels.shape[1]}x{labels.shape[0]} pixels, but its image {image} is {size[1]}x{size[0]}"
        )
    return labels, size


def voc_palette(classes: int) -> tuple[tuple[int, int, int], ...]:
    """The colours of the PASCAL VOC devkit: the bits of the class number, spread over R, G and B from the top."""
    colours = np.zeros((classes, 3), dtype=int)
    number = np.arange(classes)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colours)


def mask_set(
    name: str,
    split: str,
    classes: tuple[str, ...],
    values: MaskValues,
    palette: tuple[tuple[int, int, int], ...],
    pairs: list[tuple[Path, Path]],
    nothing: str,
) -> MaskSet:
    """The set of these pairs. Raises InputError: none, a file that is not there, one that would count twice."""
    if not pairs:
        raise InputError(f"data set '{name}', split '{split}': {nothing}")
    if not 2 <= len(classes) < IGNORE:
        raise InputError(f"data set '{name}' has {len(classes)} classes; segmentation takes 2 to {IGNORE - 1}")
    twice = [one for one, count in Counter(classes).items() if count > 1]
    if twice:
        raise InputError(f"data set '{name}' names the class '{twice[0]}' twice")
    if len(palette) != len(classes):
        raise InputError(f"data set '{name}' has {len(classes)} classes but a palette of {len(palette)} colours")
    image_of: dict[Path, Path] = {}
    for image, mask in pairs:
        if not image.is_file():
            raise InputError(f"data set '{name}', split '{split}': no image at {image}")
        if not mask.is_file():
            raise InputError(f"data set '{name}', split '{split}': image {image} has no mask at {mask}")
        other = image_of.setdefault(mask, image)
        if other is not image:
            what = f"image {image} is listed twice" if other == image else f"images {other} and {image} share one mask"
            raise InputError(f"data set '{name}', split '{split}': {what} and would count twice")
    return MaskSet(name, split, tuple(classes), values, tuple(palette), tuple(pairs))
