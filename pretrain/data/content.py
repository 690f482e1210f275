"""What files hold: the hash of each one's content, kept for as long as the file stays as it is.

Content is the truth, and reading it takes as long as the disk takes. So each file is read once, and again only when
its size, its times (of writing, and of any change to its entry, which no program can set back) or its inode are no
longer those it had; looking at these is one system call a file. What is kept lies in the cache, one file for each
folder asked about. The same pass notes what each image's header says (`pretrain.data.headers`).

Shapes: N files.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretrain.data.headers import NO_IMAGE, Header, header
from pretrain.data.kept import keep, read_kept
from pretrain.data.names import is_image
from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError
from pretrain.runtime.progress import progress

_VERSION = 1
_DIGEST = 32  # bytes of SHA-256
_SHOWN_FROM = 5_000  # files; fewer are read in a moment
_AT_ONCE = 64  # files that a thread takes at a time
_HEADER_UP_TO = 256 << 20  # larger files are hashed in pieces, and are no images
# A file changed within the clock's grain of its reading could change again without its times showing it.
_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class Contents:
    """What files hold, in the order asked for.

    Attributes:
        digests: uint8 (N, 32), SHA-256 of the content; zeros where a file cannot be read.
        headers: int32 (N, 3), `Header` of each image; zeros for what is no image.
        sizes: int64 (N,), bytes; -1 where a file cannot be read.
    """

    digests: np.ndarray
    headers: np.ndarray
    sizes: np.ndarray

    def hash(self, names: Sequence[bytes]) -> str:
        """A hash of the names and what the files hold; where they lie and when they were written does not count."""
        digest = hashlib.sha256(b"\n".join(names))
        digest.update(np.ascontiguousarray(self.digests).tobytes())
        return digest.hexdigest()


def described(data: bytes) -> tuple[bytes, Header, int]:
    """An encoded image's digest, header and size: what `Contents` holds of a file, of bytes from elsewhere."""
    return hashlib.sha256(data).digest(), header(data), len(data)


def contents(root: Path, names: np.ndarray, what: str = "") -> Contents:
    """What the files `names` (bytes (N,), relative to `root`) hold.

    Args:
        root: a folder.
        names: see above; in any order.
        what: says in the progress bar whose files are read.
    """
    root = Path(root)
    names = np.asarray(names, dtype=bytes)
    states = _states(root, names)
    kept = cache_root() / "contents" / f"{_place(root)}.npz"
    old = read_kept(kept, ("names", "states", "digests", "headers"))
    digests, headers = np.zeros((len(names), _DIGEST), np.uint8), np.zeros((len(names), 3), np.int32)
    if old is not None and len(old["names"]) and len(names):
        at = np.searchsorted(old["names"], names).clip(max=len(old["names"]) - 1)
        known = (old["names"][at] == names) & (old["states"][at] == states).all(axis=1) & (states[:, 0] >= 0)
        digests[known], headers[known] = old["digests"][at[known]], old["headers"][at[known]]
    else:
        known = np.zeros(len(names), dtype=bool)
    missing = np.flatnonzero(~known & (states[:, 0] >= 0))
    if len(missing):
        began_ns = time.time_ns()
        _read(root, names, missing, digests, headers, what or str(root))
        settled = states[:, 1:3].max(axis=1) < began_ns - _SETTLED_NS
        _keep(kept, old, names, states, digests, headers, (states[:, 0] >= 0) & settled)
    return Contents(digests, headers, states[:, 0])


def file_identity(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content, read once and again when the file has changed.

    Raises:
        InputError: no such file, or one that cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file at {path}")
    found = contents(path.parent, np.array([os.fsencode(path.name)]))
    if found.sizes[0] < 0 or not found.digests.any():
        raise InputError(f"{path} cannot be read")
    return found.digests[0].tobytes().hex()


def _place(root: Path) -> str:
    return hashlib.sha256(f"{_VERSION}\n".encode() + os.fsencode(root.resolve())).hexdigest()[:32]


def _states(root: Path, names: np.ndarray) -> np.ndarray:
    """int64 (N, 4): size, the two times in ns, inode; -1 where there is no file."""
    states = np.full((len(names), 4), -1, dtype=np.int64)
    base = os.fsencode(root) + b"/"

    def look(start: int) -> None:
        for row, name in enumerate(names[start : start + 4096].tolist(), start):
            try:
                found = os.stat(base + name)  # noqa: PTH116 - a million times
            except OSError:
                continue
            states[row] = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & 0x7FFFFFFFFFFFFFFF)

    with ThreadPoolExecutor(_threads()) as pool:
        list(pool.map(look, range(0, len(names), 4096)))
    return states


def _read(root: Path, names: np.ndarray, rows: np.ndarray, digests: np.ndarray, headers: np.ndarray, what: str) -> None:
    base = os.fsencode(root) + b"/"

    def read(start: int) -> int:
        chunk = rows[start : start + _AT_ONCE]
        for row in chunk.tolist():
            name = bytes(names[row])
            try:
                with open(base + name, "rb") as stream:  # noqa: PTH123 - as above
                    if os.fstat(stream.fileno()).st_size > _HEADER_UP_TO:
                        digest = hashlib.file_digest(stream, "sha256").digest()
                        found = NO_IMAGE
                    else:
                        data = stream.read()
                        digest = hashlib.sha256(data).digest()
                        found = header(data) if is_image(name) else NO_IMAGE
            except OSError:
                continue  # whoever needs this file is told so
            digests[row] = np.frombuffer(digest, dtype=np.uint8)
            headers[row] = found
        return len(chunk)

    with ThreadPoolExecutor(_threads()) as pool, ExitStack() as shown:
        long = len(rows) >= _SHOWN_FROM
        bar = shown.enter_context(progress(f"read {what} once", len(rows), unit="files")) if long else None
        for count in pool.map(read, range(0, len(rows), _AT_ONCE)):
            if bar is not None:
                bar.advance(count)


def _threads() -> int:
    # More than there are cores: on a network file system a thread mostly waits.
    return min(32, 4 * len(os.sched_getaffinity(0)))


def _keep(
    path: Path,
    old: dict[str, np.ndarray] | None,
    names: np.ndarray,
    states: np.ndarray,
    digests: np.ndarray,
    headers: np.ndarray,
    settled: np.ndarray,
) -> None:
    """Put what was read beside what was kept of other files of the folder, sorted by name."""
    parts = {"names": names, "states": states, "digests": digests, "headers": headers}
    parts = {key: value[settled] for key, value in parts.items()}
    if old is not None:
        others = ~np.isin(old["names"], names)
        parts = {key: np.concatenate([value, old[key][others]]) for key, value in parts.items()}
    order = np.argsort(parts["names"], kind="stable")
    keep(path, {key: value[order] for key, value in parts.items()}, "what files hold")
