"""Files packed by gzip, xz or zstd: unpacked once into the cache, within bounds."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from typing import IO, Any

from evaluate.checkpoints.file_bytes import FileBytes, OpenFile
from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import replacing

_MARKS = {"gzip": b"\x1f\x8b\x08", "xz": b"\xfd7zXZ\x00", "zstd": b"\x28\xb5\x2f\xfd"}
# Weights are nearly random numbers and shrink by a tenth; a freshly made network of zeros and ones by more.
TIMES_PACKED_SIZE = 20
FLOOR_BYTES = 64 * 2**20


def packer(start: bytes) -> str | None:
    """What packed a file that begins so: "gzip", "xz" or "zstd"; None for a file that is not packed."""
    return next((kind for kind, mark in _MARKS.items() if start.startswith(mark)), None)


def unpacked(file: OpenFile, kind: str) -> OpenFile:
    """The unpacked file, in the cache under the SHA-256 of the packed one.

    Raises:
        InputError: a damaged file, one that unpacks to far more than weights do, or zstd without its library.
    """
    kept = cache_root() / "unpacked" / file.sha256()
    if not kept.is_file():
        limit = FLOOR_BYTES + TIMES_PACKED_SIZE * file.size
        try:
            with replacing(kept) as target, _stream(file, kind) as source:
                while piece := source.read(2**20):
                    limit -= len(piece)
                    if limit < 0:
                        raise InputError(
                            f"packed by {kind}, it unpacks to more than {TIMES_PACKED_SIZE} times its size"
                        )
                    target.write(piece)
        except OSError as error:
            if isinstance(error, gzip.BadGzipFile):
                raise InputError(f"packed by {kind}, it is damaged or cut short (BadGzipFile)") from None
            raise InputError(f"packed by {kind}, it cannot be unpacked into {kept.parent}: {error.strerror}") from None
        except (EOFError, zlib.error, lzma.LZMAError) as error:
            raise InputError(f"packed by {kind}, it is damaged or cut short ({type(error).__name__})") from None
    return OpenFile(kept)


def _stream(file: OpenFile, kind: str) -> Any:
    packed = FileBytes(file).stream()
    if kind == "gzip":
        return gzip.GzipFile(fileobj=packed)
    if kind == "xz":
        return lzma.LZMAFile(packed)
    try:
        import zstandard
    except ModuleNotFoundError:
        raise InputError("it is packed by zstd: pip install zstandard, or unpack it with `zstd -d`") from None
    return _Zstd(zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True))


class _Zstd(io.RawIOBase):
    """zstandard's reader, whose own error becomes one of those that `unpacked` tells."""

    def __init__(self, reader: IO[bytes]) -> None:
        self._reader, self._any = reader, False

    def read(self, size: int = -1) -> bytes:
        import zstandard

        try:
            return self._reader.read(size)
        except zstandard.ZstdError:
            raise EOFError from None
