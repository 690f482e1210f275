"""Windows of an open file: nothing is in memory until it is asked for, and a file cut short is an error, not a signal.

A mapped file kills the process (SIGBUS) when somebody truncates it meanwhile, which happens where training goes on
beside an evaluation. Here every read is checked against what the window declares.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.runtime.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]
_CHUNK_BYTES = 2**20


class OpenFile:
    """A regular file, open for reading as long as anything refers to it.

    Attributes:
        size: in bytes, on the disk.
        holds: the same, once unpacked.

    Raises:
        InputError: there is none at `path`, or what is there is a folder, a pipe, a socket or a device.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Not blocking: opening a pipe would wait for somebody to write into it.
            self.descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise InputError(_missing(path)) from None
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise InputError("a file's name holds no zero byte") from None
        weakref.finalize(self, os.close, self.descriptor)
        status = os.fstat(self.descriptor)
        if not stat.S_ISREG(status.st_mode):
            what = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, a socket or a device"
            raise InputError(f"{path} is {what}; expected a checkpoint file")
        self.size = self.holds = status.st_size
        self._stamp = (status.st_size, status.st_mtime_ns)

    def demand_unchanged(self) -> None:
        """Raises InputError when somebody has written to the file since it was opened."""
        status = os.fstat(self.descriptor)
        if (status.st_size, status.st_mtime_ns) != self._stamp:
            raise InputError(f"{self.path} was changed while it was read; wait until it is whole")

    def fill(self, target: memoryview, at: int) -> None:
        """Read `len(target)` bytes from `at`. Raises InputError if the file no longer has them."""
        done = 0
        while done < len(target):
            got = os.preadv(self.descriptor, [target[done:]], at + done)
            if got == 0:
                raise InputError(f"{self.path} was cut short while it was read: it ends before byte {at + len(target)}")
            done += got

    def sha256(self) -> str:
        """Hexadecimal SHA-256 of the whole file, read in chunks."""
        digest, chunk = hashlib.sha256(), memoryview(bytearray(_CHUNK_BYTES))
        for at in range(0, self.size, _CHUNK_BYTES):
            piece = chunk[: min(_CHUNK_BYTES, self.size - at)]
            self.fill(piece, at)
            digest.update(piece)
        return digest.hexdigest()


def _missing(path: Path) -> str:
    if not path.is_symlink():
        return f"no checkpoint file at {path}"
    target = str(path.readlink())
    if ".git/annex/objects" in target:
        return f"{path} is a link of git-annex whose content is not here; run `git annex get` on it"
    return f"{path} is a link to {target}, where nothing is"


class FileBytes:
    """Some bytes of a file: slices are windows again, `bytes()` and `numbers` read."""

    __slots__ = ("_length", "_start", "file")

    def __init__(self, file: OpenFile, start: int = 0, length: int | None = None) -> None:
        self.file, self._start = file, start
        self._length = file.size if length is None else length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: slice) -> FileBytes:
        begin, end, step = part.indices(self._length)
        assert step == 1
        return FileBytes(self.file, self._start + begin, max(end - begin, 0))

    def __bytes__(self) -> bytes:
        content = bytearray(self._length)
        self.file.fill(memoryview(content), self._start)
        return bytes(content)

    def numbers(self, kind: np.dtype[Any], first: int, count: int) -> Array:
        """`count` numbers, from number `first` on, in memory of their own."""
        assert (first + count) * kind.itemsize <= self._length
        made = np.empty(count, kind)
        if count:
            self.file.fill(made.view(np.uint8).data, self._start + first * kind.itemsize)
        return made

    def stream(self) -> io.BufferedReader:
        """A file object over the window, for libraries that want one."""
        return io.BufferedReader(_Stream(self))


class _Stream(io.RawIOBase):
    def __init__(self, window: FileBytes) -> None:
        self._window, self._at = window, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        at = offset + (0, self._at, len(self._window))[whence]
        if at < 0:
            raise OSError("a place before the file's beginning")
        self._at = at
        return at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        piece = bytes(self._window[self._at : self._at + len(buffer)])
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


Readable = FileBytes | memoryview | bytes | bytearray
