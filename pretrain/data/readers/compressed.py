"""Compressed shards: unpacked into the cache once, since no place in them can be reached without reading all before."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import logging
import lzma
import shutil
import zlib
from pathlib import Path
from typing import IO, Any

from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import replacing

log = logging.getLogger("fastmoco")

_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}


def plain_shard(path: Path, identity: str) -> Path:
    """The shard itself when it is not compressed; else a copy that is not, kept in the cache by its content.

    Raises:
        InputError: a compressed shard that is cut off or damaged, or a cache without room for it.
    """
    with path.open("rb") as stream:
        start = stream.read(6)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    if opener is None:
        return path
    plain = cache_root() / "tar" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.tar"
    if not plain.is_file():
        log.info("%s is compressed: it is unpacked into %s", path, plain)
        _unpack(path, opener, plain)
    return plain


def _unpack(path: Path, opener: Any, plain: Path) -> None:
    stream: IO[bytes]
    try:
        with opener(path, "rb") as stream, replacing(plain) as out:
            shutil.copyfileobj(stream, out, 1 << 20)
    except EOFError:
        raise InputError(f"{path} is cut off: its compressed data ends early") from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path} cannot be unpacked: {error}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be unpacked into {plain}: {error.strerror or error}") from None
