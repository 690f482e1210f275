"""Which images of a set do not decode: all are opened once, and what was found is kept by their content."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from pretrain.data.images import ImageSet
from pretrain.data.kept import keep, read_kept
from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import canonical_hash
from pretrain.runtime.progress import progress

_VERSION = 1


def damaged(images: ImageSet) -> dict[int, str]:
    """Row -> why, of the images that evaluation would refuse."""
    key = canonical_hash([_VERSION, images.identity, images.max_pixels])[:32]
    path = cache_root() / "damaged" / f"{key}.npz"
    kept = read_kept(path, ("rows",))
    if kept is None:
        cores = len(os.sched_getaffinity(0))
        with progress(f"open {images.name}/{images.split}", len(images)) as bar, ThreadPoolExecutor(cores) as pool:
            found = []
            for row, reason in enumerate(pool.map(lambda row: _reason(images, row), range(len(images)))):
                bar.advance()
                if reason:
                    found.append(row)
        kept = {"rows": np.array(found, dtype=np.int64)}
        keep(path, kept, f"which images of {images.name} are damaged")
    return {row: reason for row in kept["rows"].tolist() if (reason := _reason(images, row))}


def _reason(images: ImageSet, row: int) -> str:
    try:
        images.decode(row)
    except InputError as error:
        return str(error)
    return ""
