"""Listing image folders of any size: walked once, kept in the cache, and walked again when a folder has changed."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import replacing

log = logging.getLogger("fastmoco")

_CACHED_FROM = 20_000  # files; walking fewer is as quick as checking a kept listing
_VERSION = 1


@dataclass(frozen=True)
class Listing:
    """The files below a folder, folder by folder in sorted order.

    Attributes:
        names: bytes (N,), relative to the root with "/" between the parts, as `os.fsencode` makes them.
        sizes: int64 (N,), bytes.
        folders: bytes (M,), every folder walked, the root itself as b"".
        mtimes_ns: int64 (M,), when each folder last gained or lost a file.
    """

    names: np.ndarray
    sizes: np.ndarray
    folders: np.ndarray
    mtimes_ns: np.ndarray

    def hash(self) -> str:
        """Of names and sizes; where the root lies and when files were written does not count."""
        digest = hashlib.sha256(b"\n".join(self.names.tolist()))
        digest.update(self.sizes.tobytes())
        return digest.hexdigest()


def list_files(root: Path, suffixes: Sequence[str]) -> Listing:
    """The files below `root` whose names end in one of `suffixes` (lower case; upper case counts too).

    A listing of 20,000 files or more is kept in the cache. It is used again when every folder it walked still has the
    time it had (a folder's time changes with every file that comes or goes) and the listing holds as many names as
    were counted when it was made. A file overwritten in place is not noticed in a kept listing.

    Raises:
        InputError: `root` is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"no folder at {root}")
    key = hashlib.sha256(f"{_VERSION}\n{root.resolve()}\n{'|'.join(suffixes)}".encode()).hexdigest()[:32]
    kept = cache_root() / "listings" / f"{key}.npz"
    listing = _read_kept(kept, root)
    if listing is None:
        began = time.time()
        listing = _walk(root, tuple(suffixes))
        # A folder changed within the clock's grain of the walk could change again without its time showing it.
        settled = int(listing.mtimes_ns.max()) < (began - 2) * 1e9
        if len(listing.names) >= _CACHED_FROM:
            log.info("listed %d files below %s in %.1f s", len(listing.names), root, time.time() - began)
            if settled:
                _keep(kept, listing)
    return listing


def _walk(root: Path, suffixes: tuple[str, ...]) -> Listing:
    names: list[bytes] = []
    sizes: list[int] = []
    folders: list[bytes] = []
    mtimes_ns: list[int] = []
    endings = tuple(os.fsencode(suffix) for suffix in suffixes)
    pending = [b""]
    while pending:
        folder = pending.pop()
        place = os.path.join(os.fsencode(root), folder)  # noqa: PTH118 - bytes, a million times
        folders.append(folder)
        mtimes_ns.append(os.stat(place).st_mtime_ns)  # noqa: PTH116 - as above
        inside: list[bytes] = []
        with os.scandir(place) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            name = folder + b"/" + entry.name if folder else entry.name
            if entry.is_dir():
                inside.append(name)
            elif entry.name.lower().endswith(endings):
                names.append(name)
                sizes.append(entry.stat().st_size)
        pending.extend(reversed(inside))
    return Listing(
        np.array(names, dtype=bytes), np.array(sizes, dtype=np.int64), np.array(folders, dtype=bytes),
        np.array(mtimes_ns, dtype=np.int64),
    )  # fmt: skip


def _keep(path: Path, listing: Listing) -> None:
    try:
        with replacing(path) as stream:
            np.savez(stream, **vars(listing), count=np.int64(len(listing.names)))
    except OSError as error:
        log.warning("the listing could not be kept at %s (%s); it is made again next time", path, error)


def _read_kept(path: Path, root: Path) -> Listing | None:
    try:
        with np.load(path) as kept:
            listing = Listing(*(kept[name] for name in ("names", "sizes", "folders", "mtimes_ns")))
            if int(kept["count"]) != len(listing.names) or len(listing.sizes) != len(listing.names):
                return None
    except (OSError, ValueError, KeyError, EOFError):
        return None  # none kept, or not by this version
    base = os.fsencode(root)
    for folder, mtime_ns in zip(listing.folders.tolist(), listing.mtimes_ns.tolist(), strict=True):
        try:
            if os.stat(os.path.join(base, folder)).st_mtime_ns != mtime_ns:  # noqa: PTH116, PTH118 - as above
                return None
        except OSError:
            return None
    return listing
