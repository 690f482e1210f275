"""What a file is, by its content: the hash that tells whether it is still the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pretrain.runtime.errors import InputError

_WHOLE_UP_TO = 64 << 20  # bytes: smaller files are hashed whole, of larger ones the size and both ends
_END = 1 << 20


def file_identity(path: Path) -> str:
    """A hash of a file's size and content: all of it up to 64 MiB, beyond that its first and last MiB.

    Raises:
        InputError: no such file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            if size <= _WHOLE_UP_TO:
                return hashlib.file_digest(stream, "sha256").hexdigest()
            digest = hashlib.sha256(f"{size}\n".encode())
            digest.update(stream.read(_END))
            stream.seek(size - _END)
            digest.update(stream.read())
            return digest.hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"no file at {path}") from None
