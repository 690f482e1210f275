"""Listing image folders of any size: walked once, kept in the cache, and walked again when a folder has changed."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretrain.data.kept import keep, read_kept
from pretrain.data.names import is_system, kind_of
from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError

log = logging.getLogger("fastmoco")

_CACHED_FROM = 20_000  # files; walking fewer is as quick as checking a kept listing
_VERSION = 2


@dataclass(frozen=True)
class Listing:
    """The files below a folder, folder by folder in sorted order; links are followed.

    Attributes:
        names: bytes (N,), relative to the root with "/" between the parts, as `os.fsencode` makes them. A link that
            leads nowhere stands here too, since whoever asks for its image must be told.
        folders: bytes (M,), every folder walked, the root itself as b"".
        mtimes_ns: int64 (M,), when each folder last gained or lost a file.
        broken: bytes (L,), which of the names are links that lead nowhere.
        ignored: bytes (I,), what was left out and how often: "KIND\\tCOUNT\\tEXAMPLE", where KIND is a suffix, or
            "hidden or system", or "link loop".
    """

    names: np.ndarray
    folders: np.ndarray
    mtimes_ns: np.ndarray
    broken: np.ndarray
    ignored: np.ndarray

    def left_out(self) -> list[tuple[str, int, str]]:
        """(kind, how many, an example) of what was not listed."""
        parts = (os.fsdecode(bytes(line)).split("\t", 2) for line in self.ignored)
        return [(kind, int(count), example) for kind, count, example in parts]


def list_files(root: Path, suffixes: Sequence[str]) -> Listing:
    """The files below `root` whose names end in one of `suffixes` (lower case; upper case counts too).

    Hidden and system files and folders (`pretrain.data.names`) are passed over, and a link to a folder that it lies in
    is not followed; `Listing.ignored` counts both. A listing of 20,000 files or more is kept in the cache and used
    again while every folder it walked has the time it had, which changes with every file that comes or goes. It holds
    names only: what is in the files is `pretrain.data.content`'s to know.

    Raises:
        InputError: `root` is no folder, or a folder may not be read.
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
                keep(kept, vars(listing), f"the listing of {root}")
    return listing


def _walk(root: Path, suffixes: tuple[str, ...]) -> Listing:
    names: list[bytes] = []
    folders: list[bytes] = []
    mtimes_ns: list[int] = []
    broken: list[bytes] = []
    ignored: Counter[str] = Counter()
    examples: dict[str, bytes] = {}
    endings = tuple(os.fsencode(suffix) for suffix in suffixes)

    def leave_out(kind: str, name: bytes) -> None:
        ignored[kind] += 1
        examples.setdefault(kind, name)

    # With each folder those that it lies in, as (device, inode): a link back to one of them would never end.
    pending: list[tuple[bytes, tuple[tuple[int, int], ...]]] = [(b"", ())]
    while pending:
        folder, around = pending.pop()
        place = os.path.join(os.fsencode(root), folder)  # noqa: PTH118 - bytes, a million times
        status = os.stat(place)  # noqa: PTH116 - as above
        itself = (status.st_dev, status.st_ino)
        if itself in around:
            leave_out("link loop", folder)
            continue
        folders.append(folder)
        mtimes_ns.append(status.st_mtime_ns)
        inside: list[bytes] = []
        try:
            with os.scandir(place) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"folder {os.fsdecode(place)} cannot be read: {error.strerror}") from None
        for entry in entries:
            name = folder + b"/" + entry.name if folder else entry.name
            if is_system(entry.name):
                leave_out("hidden or system", name)
            elif _is_folder(entry):
                inside.append(name)
            elif entry.name.lower().endswith(endings):
                names.append(name)
                if entry.is_symlink() and not os.path.exists(entry.path):  # noqa: PTH110 - as above
                    broken.append(name)
            else:
                leave_out(kind_of(entry.name), name)
        pending.extend((name, (*around, itself)) for name in reversed(inside))
    told = [f"{kind}\t{count}\t".encode() + examples[kind] for kind, count in sorted(ignored.items())]
    return Listing(
        np.array(names, dtype=bytes), np.array(folders, dtype=bytes), np.array(mtimes_ns, dtype=np.int64),
        np.array(broken, dtype=bytes), np.array(told, dtype=bytes),
    )  # fmt: skip


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _read_kept(path: Path, root: Path) -> Listing | None:
    kept = read_kept(path, ("names", "folders", "mtimes_ns", "broken", "ignored"))
    if kept is None:
        return None
    listing = Listing(**kept)
    base = os.fsencode(root)
    for folder, mtime_ns in zip(listing.folders.tolist(), listing.mtimes_ns.tolist(), strict=True):
        try:
            if os.stat(os.path.join(base, folder)).st_mtime_ns != mtime_ns:  # noqa: PTH116, PTH118 - as above
                return None
        except OSError:
            return None
    if any(os.path.exists(os.path.join(base, name)) for name in listing.broken.tolist()):  # noqa: PTH110, PTH118
        return None  # what was not there has come
    return listing
