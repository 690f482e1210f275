"""Images with class masks: the catalog's `masks` format and VOC's SegmentationClass layout.

Shapes: H W size, K classes. Labels here are 0..K-1 with `IGNORE` for pixels that do not count, whatever the files hold.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pretrain.data.content import contents
from pretrain.data.decode import read_image
from pretrain.data.entries import MasksEntry, VocEntry
from pretrain.data.places import Places
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import canonical_hash, write_json
from pretrain.runtime.progress import progress

IGNORE = 255
_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
# Single-channel modes of Pillow in which a pixel is an index (P is an index into the file's colour table).
_INDEX_MODES = ("L", "P", "1", "I", "I;16")


@dataclass(frozen=True)
class MaskSet:
    """Images of one split with a class mask each. Files are opened when a sample is asked for.

    Attributes:
        name, split: of the catalog.
        classes: names of the K classes, in the order of their labels.
        ignore: the value that stands for "does not count" in the files.
        palette: K colours, uint8 RGB, for pictures.
        pairs: (image, mask) files, sorted by name.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    ignore: int
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
        return canonical_hash([list(self.classes), self.ignore, found.hash([os.fsencode(path.name) for path in files])])

    def image(self, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB as stored; EXIF orientation is left alone, as masks have none. InputError if damaged."""
        return read_image(self.pairs[index][0])

    def mask(self, index: int) -> np.ndarray:
        """(H, W) uint8: labels 0..K-1, `IGNORE` elsewhere.

        The files' values, without `ignore`, are the classes in rising order: with `ignore: 11` and 11 classes 0..10
        stand for themselves, with `ignore: 0` and 150 classes (ADE20K) 1..150 become 0..149.

        Raises:
            InputError: a file that cannot be read, is not single-channel, or holds a value beyond the class list.
        """
        path = self.pairs[index][1]
        try:
            with Image.open(path) as image:
                if image.mode not in _INDEX_MODES:
                    raise InputError(
                        f"mask {path} has mode {image.mode}, expected one channel of class indices (mode L or P)"
                    )
                values = np.asarray(image).astype(np.int64)
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"mask {path} cannot be read: {error}") from None
        table = self._table()
        if values.size and not 0 <= values.min() <= values.max() < len(table):
            wrong = int(values.max() if values.max() >= len(table) else values.min())
            raise self._beyond(path, wrong)
        labels = table[values]
        if (labels < 0).any():
            raise self._beyond(path, int(values[labels < 0][0]))
        return labels.astype(np.uint8)

    def size(self, index: int) -> tuple[int, int]:
        """(H, W) of the image, from its header. InputError if it cannot be read."""
        path = self.pairs[index][0]
        try:
            with Image.open(path) as image:
                return image.height, image.width
        except (OSError, UnidentifiedImageError) as error:
            raise InputError(f"image {path} cannot be read: {error}") from None

    def _table(self) -> np.ndarray:
        table = np.full(max(IGNORE, self.ignore, len(self.classes)) + 1, -1, dtype=np.int64)
        values = [value for value in range(len(self.classes) + 1) if value != self.ignore][: len(self.classes)]
        table[values] = np.arange(len(self.classes))
        table[self.ignore] = IGNORE
        return table

    def _beyond(self, path: Path, value: int) -> InputError:
        return InputError(
            f"mask {path} holds label {value}, which is beyond the {len(self.classes)} classes of '{self.name}' "
            f"and is not its ignore value {self.ignore}"
        )


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
    pairs = []
    for image in sorted(path for path in image_dir.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES):
        key = str(image.relative_to(image_dir).with_suffix(""))
        if entry.image_suffix:
            if not image.name.endswith(entry.image_suffix):
                continue
            key = str(image.relative_to(image_dir)).removesuffix(entry.image_suffix)
        pairs.append((image, mask_dir / f"{key}{entry.mask_suffix}"))
    palette = entry.palette or voc_palette(len(entry.classes))
    return _mask_set(name, split, entry.classes, entry.ignore, palette, pairs, f"no image in {image_dir}")


def open_voc(places: Places, name: str, entry: VocEntry, split: str) -> MaskSet:
    """One split of a `voc` entry, with the masks in `SegmentationClass`. Raises InputError as `read_voc_masks` does."""
    root, lists = places.resolve(entry.root), getattr(entry, split)
    return read_voc_masks(root, lists, entry.class_names(), name=name, split=split)


def read_voc_masks(root: Path, lists: Sequence[str], objects: Sequence[str], *, name: str, split: str) -> MaskSet:
    """The images of `lists` ("VOC2007/trainval", ...); the classes are the background and then `objects`.

    Raises:
        InputError: a missing list, or an image whose mask is missing, which is named.
    """
    pairs = []
    for given in lists:
        year, _, part = given.rpartition("/")
        home = root / year
        listing = home / "ImageSets" / "Segmentation" / f"{part}.txt"
        if not listing.is_file():
            raise InputError(f"data set '{name}', split '{split}': no list at {listing}, which segmentation needs")
        # SBD's extra masks of VOC12aug lie beside VOC's own, in a folder that holds the whole of both.
        extra = home / "SegmentationClassAug"
        masks = extra if extra.is_dir() else home / "SegmentationClass"
        for line in listing.read_text(encoding="utf-8").split("\n"):
            if line.strip():
                stem = line.split()[0]
                pairs.append((home / "JPEGImages" / f"{stem}.jpg", masks / f"{stem}.png"))
    classes = ("background", *objects)
    return _mask_set(
        name, split, classes, IGNORE, voc_palette(len(classes)), pairs, f"nothing in the lists under {root}"
    )


def check_masks(masks: MaskSet, cache: Path) -> MaskStatistics:
    """Open every mask of a split once, with threads, and keep what was found, so that the next run need not.

    Args:
        masks: the split.
        cache: directory for the findings; they hold for as long as no file changes.

    Raises:
        InputError: the first file, by name, that is wrong: a mask of another size than its image, a value beyond the
            class list, a mask with several channels, a file that cannot be read.
    """
    place = Path(cache) / "masks" / f"{masks.identity}.json"
    if place.is_file():
        found = json.loads(place.read_text(encoding="utf-8"))
        return MaskStatistics(tuple(found["pixels"]), found["ignored"], found["median_short_side"])

    def look(index: int) -> tuple[np.ndarray, int]:
        labels, size = masks.mask(index), masks.size(index)
        if labels.shape != size:
            image, mask = masks.pairs[index]
            raise InputError(
                f"mask {mask} is {labels.shape[1]}x{labels.shape[0]} pixels, but its image {image} is "
                f"{size[1]}x{size[0]}"
            )
        return np.bincount(labels.ravel(), minlength=IGNORE + 1), min(size)

    counts, short_sides = np.zeros(IGNORE + 1, dtype=np.int64), []
    what = f"checking masks of {masks.name} {masks.split}"
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool, progress(what, len(masks), unit="masks") as bar:
        for count, short_side in pool.map(look, range(len(masks))):
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


def voc_palette(classes: int) -> tuple[tuple[int, int, int], ...]:
    """The colours of the PASCAL VOC devkit: the bits of the class number, spread over R, G and B from the top."""
    colours = np.zeros((classes, 3), dtype=int)
    number = np.arange(classes)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    return tuple((int(red), int(green), int(blue)) for red, green, blue in colours)


def _mask_set(
    name: str,
    split: str,
    classes: tuple[str, ...],
    ignore: int,
    palette: tuple[tuple[int, int, int], ...],
    pairs: list[tuple[Path, Path]],
    nothing: str,
) -> MaskSet:
    if not pairs:
        raise InputError(f"data set '{name}', split '{split}': {nothing}")
    if not 2 <= len(classes) < IGNORE:
        raise InputError(f"data set '{name}' has {len(classes)} classes; segmentation takes 2 to {IGNORE - 1}")
    if len(palette) != len(classes):
        raise InputError(f"data set '{name}' has {len(classes)} classes but a palette of {len(palette)} colours")
    for image, mask in pairs:
        if not image.is_file():
            raise InputError(f"data set '{name}', split '{split}': no image at {image}")
        if not mask.is_file():
            raise InputError(f"data set '{name}', split '{split}': image {image} has no mask at {mask}")
    return MaskSet(name, split, tuple(classes), ignore, tuple(palette), tuple(pairs))
