"""Reading every image of a split as evaluation will, with all cores: what is damaged, and what looks alike."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pretrain.data.gate.duplicates import perceptual_hash
from pretrain.data.gate.subjects import Subject
from pretrain.runtime.errors import InputError
from pretrain.runtime.progress import progress


@dataclass(frozen=True)
class Opened:
    """What reading a split has shown.

    Attributes:
        damaged: a sentence for each image that evaluation would refuse.
        rows: int64 (M,), the images with a perceptual hash, and `hashes` uint64 (M,) theirs.
    """

    damaged: list[str]
    rows: np.ndarray
    hashes: np.ndarray


def open_all(subject: Subject) -> Opened:
    """Read all images of a split, in threads: decoding leaves Python's lock alone."""

    def read(row: int) -> tuple[str, int | None]:
        try:
            return "", perceptual_hash(subject.read(row))
        except InputError as error:
            return str(error), None

    images = subject.images
    damaged: list[str] = []
    hashes: dict[int, int] = {}
    cores = len(os.sched_getaffinity(0))
    with progress(f"open {images.name}/{images.split}", len(images)) as bar, ThreadPoolExecutor(cores) as pool:
        for row, (reason, found) in enumerate(pool.map(read, range(len(images)))):
            bar.advance()
            if reason:
                damaged.append(reason)
            elif found is not None:
                hashes[row] = found
    rows = np.array(list(hashes), dtype=np.int64)
    return Opened(damaged, rows, np.array(list(hashes.values()), dtype=np.uint64))
