"""Which test samples a run got right: kept beside its result, or in its line of a collection, one bit a sample.

A run's directory holds `correct.npy`, which is `numpy.packbits` of one bool a test sample in the set's order; a line of
a JSON-lines collection holds the same bytes under "correct", in base64 with - and _ (1.7 kB for 10 000 samples). Paired
tests and intervals over test samples are made of them.
"""

from __future__ import annotations

import base64
import binascii
import functools
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def answers(path: str, run_id: str, n: int, value: float) -> NDArray[np.bool_] | None:
    """(n,) bool of the run found at `path`, its directory or the collection it stands in; None when it kept none.

    What a run kept is used only where it gives `value` (percent) again: a task that saves the last epoch's answers says
    nothing of a row of the best epoch.
    """
    place = Path(path)
    collected = place.suffix == ".jsonl"
    file = place if collected else place / "correct.npy"
    try:
        modified = file.stat().st_mtime_ns
    except (FileNotFoundError, NotADirectoryError):
        return None
    packed = _collected(file, modified).get(run_id) if collected else _packed(file, modified)
    if packed is None or len(packed) != (n + 7) // 8:
        return None
    right = np.unpackbits(packed, count=n).astype(bool)
    return right if abs(100 * right.mean() - value) < 1e-3 else None


def as_text(directory: Path) -> str | None:
    """The answers of a run's directory as its line of a collection holds them; None when it kept none."""
    file = directory / "correct.npy"
    try:
        packed = _packed(file, file.stat().st_mtime_ns)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return None if packed is None else base64.urlsafe_b64encode(packed.tobytes()).decode("ascii")


@functools.lru_cache(maxsize=512)
def _packed(file: Path, modified_ns: int) -> NDArray[np.uint8] | None:
    # `modified_ns` is part of the key alone: a file that was replaced is read again.
    try:
        packed = np.load(file, allow_pickle=False)
    except (ValueError, EOFError):
        return None
    return packed if packed.dtype == np.uint8 and packed.ndim == 1 else None


@functools.lru_cache(maxsize=16)
def _collected(file: Path, modified_ns: int) -> dict[str, NDArray[np.uint8]]:
    found: dict[str, NDArray[np.uint8]] = {}
    with file.open("rb") as stream:
        for line in stream:
            if b'"correct"' not in line:
                continue
            try:
                value = json.loads(line)
                found.setdefault(value["run"]["run_id"], _decoded(value["correct"]))
            # The store has told of a line that is no result; here it holds no answers.
            except (ValueError, KeyError, TypeError):
                continue
    return found


def _decoded(text: str) -> NDArray[np.uint8]:
    try:
        return np.frombuffer(base64.b64decode(text, altchars=b"-_", validate=True), dtype=np.uint8)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
