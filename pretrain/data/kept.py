"""Arrays kept in the cache: read whole or not at all, since whatever lies there can be made again."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from pretrain.runtime.files import replacing

log = logging.getLogger("fastmoco")


def read_kept(path: Path, names: Sequence[str]) -> dict[str, np.ndarray] | None:
    """The arrays of a kept file; None where there is none, or it is damaged, or lacks one of `names`."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as kept:
            return {name: kept[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def keep(path: Path, arrays: Mapping[str, np.ndarray], what: str) -> None:
    """Keep some arrays. A cache that cannot be written costs time, not the run: `what` is said to be made again."""
    try:
        with replacing(path) as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]  # its stub takes no mapping of arrays
    except OSError as error:
        log.warning("%s could not be kept at %s (%s) and will be made again next time", what, path, error)
