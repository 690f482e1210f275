"""What a run resumes from: written aside in the background, verified when read, the two newest kept.

A state file is what `torch.save` writes, then 40 bytes of ours: the SHA-256 of what stands before, and a mark. (The
archive's own CRC-32s leave its directory unprotected.)
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pretrain.errors import RunFailedError
from pretrain.files import replacing

log = logging.getLogger("fastmoco")

KEEP = 2
MARK = b"FMstate1"
TAIL = hashlib.sha256().digest_size + len(MARK)


class StateStore:
    """The states of one run, `DIR/step_XXXXXXXX.pt`.

    `save` copies the tensors (the loop waits for that alone) and leaves the writing to a thread. One state is written
    at a time: a `save` during a write waits for it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self._thread: threading.Thread | None = None
        self._failure: Exception | None = None
        self._buffers: dict[tuple[str, ...], torch.Tensor] = {}

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Step and content of the newest whole state; None without one. A damaged file is named in the log and left."""
        for path in sorted(self.directory.glob("step_*.pt"), reverse=True):
            content = whole_content(path)
            if content is not None:
                state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
                return int(path.stem.removeprefix("step_")), state
            log.warning("%s is damaged (its checksum does not agree); going back to the state before it", path)
        return None

    def save(self, step: int, state: dict[str, Any], *, wait: bool = False) -> None:
        """Write the state of `step`; with `wait` it is on the disk when the call returns.

        Raises:
            RunFailedError: this write or the one before it failed (a full disk); older states are intact.
        """
        self.finish()
        snapshot = self._copy(state, ())
        self._thread = threading.Thread(target=self._write, args=(step, snapshot), name="state writer")
        self._thread.start()
        if wait:
            self.finish()

    def finish(self) -> None:
        """Wait for the write that is under way. Raises RunFailedError when it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise RunFailedError(
                f"the state could not be saved in {self.directory}: {failure}; the states before it are intact"
            ) from failure

    def _write(self, step: int, snapshot: dict[str, Any]) -> None:
        path = self.directory / f"step_{step:08d}.pt"
        try:
            with replacing(path) as stream:
                hashing = _Hashing(stream)
                torch.save(snapshot, hashing)
                stream.write(hashing.digest() + MARK)
            # Damaged files count too: they are older than this whole one, so nothing is lost with them.
            for old in sorted(self.directory.glob("step_*.pt"), reverse=True)[KEEP:]:
                old.unlink()
        except (OSError, RuntimeError) as error:  # torch's archive writer reports a failed write as RuntimeError
            self._failure = error

    def _copy(self, value: Any, at: tuple[str, ...]) -> Any:
        if isinstance(value, torch.Tensor):
            # Buffers are kept from save to save: fresh pages cost more than the copy itself.
            buffer = self._buffers.get(at)
            if buffer is None or buffer.shape != value.shape or buffer.dtype != value.dtype:
                buffer = self._buffers[at] = torch.empty(value.shape, dtype=value.dtype)
            return buffer.copy_(value.detach())
        if isinstance(value, dict):
            return {key: self._copy(item, (*at, str(key))) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(item, (*at, str(index))) for index, item in enumerate(value))
        return value


def whole_content(path: Path) -> memoryview | None:
    """What stands before the checksum of a state file; None when the checksum does not agree or is not there."""
    data = memoryview(Path(path).read_bytes())
    content, tail = data[:-TAIL], bytes(data[-TAIL:])
    return content if tail == hashlib.sha256(content).digest() + MARK else None


class _Hashing:
    """A stream to write to that hashes what passes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._hash = stream, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()

    def digest(self) -> bytes:
        return self._hash.digest()
