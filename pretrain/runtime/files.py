"""Files that are whole or absent: write aside, fsync, rename.

Every room may import this module; it imports the standard library alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Open a binary file beside `path` that becomes `path` when the block ends without an error.

    The content reaches the disk before the name does, and the name before the call returns, so that after a crash or
    a power cut `path` holds either all of the old content or all of the new. On an error nothing is left behind.
    Without `durable` this holds for crashes of the process alone: for thousands of files that can be written again.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a directory, expected a file", str(path))
    if path.exists() and not path.is_file():
        # /dev/stdout and pipes: a rename would put a file in the place of the device.
        raise OSError(errno.EINVAL, "is no regular file and is not replaced", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
        if durable:
            _fsync_directory(path.parent)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a failed write does not say of which file
            error.filename = str(path)
        raise


def write_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace `path` by `content`, whole or not at all."""
    with replacing(path, durable=durable) as stream:
        stream.write(content)


def write_text(path: Path, content: str, *, durable: bool = True) -> None:
    """Replace `path` by `content` in UTF-8, whole or not at all."""
    write_bytes(path, content.encode(), durable=durable)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """Replace `path` by `value` as indented JSON with sorted keys; NaN and infinity are refused (ValueError)."""
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(path, text, durable=durable)


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content, read in chunks."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical_hash(value: Any) -> str:
    """Hexadecimal SHA-256 of a JSON value, the same for equal values whatever their key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _umask() -> int:
    # The umask can only be read by setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
