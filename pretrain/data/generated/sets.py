"""The set `shapes`: image i of a split derives from (seed, split, i), and its class is i modulo the number of classes.

All images of a split are drawn at its first use (about 4,000 of 64 pixels a second) into one file in the cache, which
every process maps into its memory.
"""

from __future__ import annotations

import logging
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from PIL import Image

from pretrain.data.content import Contents
from pretrain.data.entries import SPLITS, ShapesEntry
from pretrain.data.generated.shapes import CLASSES, VERSION, draw_image
from pretrain.data.images import ImageSet, Source
from pretrain.data.places import Places
from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import canonical_hash, replacing
from pretrain.runtime.progress import progress

log = logging.getLogger("fastmoco")


def image_rng(seed: int, split: str, index: int) -> np.random.Generator:
    """The random numbers of one image of a generated set."""
    key = np.array([seed, SPLITS.index(split)], dtype=np.uint64)
    # The generator counts up in the first word, so the streams of two images cannot meet.
    return np.random.Generator(np.random.Philox(counter=np.array([0, 0, index, 0], dtype=np.uint64), key=key))


class Shapes(Source):
    """The images of one split, as pixels."""

    def __init__(self, size: int, count: int, seed: int, split: str) -> None:
        self.size, self.count, self.seed, self.split = size, count, seed, split
        self.identity = canonical_hash(["shapes", VERSION, size, count, seed, split])
        self._pixels: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pixels": None}

    def __len__(self) -> int:
        return self.count

    def encoded(self, row: int) -> bytes:
        """The image as PNG."""
        buffer = BytesIO()
        Image.fromarray(self.decode(row)).save(buffer, "PNG")
        return buffer.getvalue()

    def decode(self, row: int) -> np.ndarray:
        """uint8 (size, size, 3) RGB."""
        if self._pixels is None:
            self._pixels = self._all()
        return np.array(self._pixels[row])

    def contents(self) -> Contents:
        """Sizes, and digests that stand for the images: no two are alike, and nothing is drawn for it."""
        rows = np.arange(self.count)
        digests = np.zeros((self.count, 32), dtype=np.uint8)
        digests[:, :8] = np.frombuffer(bytes.fromhex(self.identity[:16]), dtype=np.uint8)
        digests[:, :8] ^= (rows.astype("<u8") + 1).view(np.uint8).reshape(-1, 8)
        headers = np.tile(np.array([self.size, self.size, 0], dtype=np.int32), (self.count, 1))
        return Contents(digests, headers, np.zeros(self.count, dtype=np.int64))

    def draw(self, row: int) -> np.ndarray:
        """The image, drawn anew."""
        return draw_image(row % len(CLASSES), self.size, image_rng(self.seed, self.split, row))

    def where(self, row: int) -> str:
        """Generator, split and number."""
        return f"shapes/{self.split} image {row} (generated, seed {self.seed})"

    def _all(self) -> np.ndarray:
        path = cache_root() / "shapes" / f"{self.identity[:32]}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock")):
                if not path.exists():
                    self._draw_to(path)
        pixels = np.load(path, mmap_mode="r")
        assert pixels.shape == (self.count, self.size, self.size, 3)
        return pixels

    def _draw_to(self, path: Path) -> None:
        shape = (self.count, self.size, self.size, 3)
        with (
            replacing(path) as stream,
            progress(f"draw shapes/{self.split}", self.count, unit="images") as bar,
        ):
            np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for row in range(self.count):
                stream.write(self.draw(row).tobytes())
                bar.advance()


def open_split(places: Places, name: str, entry: ShapesEntry, split: str) -> ImageSet:
    """One split of a generated set."""
    count = getattr(entry, split)
    if count < len(CLASSES):
        raise InputError(
            f"data set '{name}': {count} images in {split}, expected one of each of {len(CLASSES)} classes"
        )
    source = Shapes(entry.size, count, entry.seed, split)
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    return ImageSet(source, name=name, split=split, classes=CLASSES, labels=labels)
