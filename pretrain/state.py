"""What a run resumes from: written aside in the background, verified when read, the two newest kept.

A state file is a torch zip archive, whose every record carries a CRC-32; a file is whole when the archive's directory
(written last) is there and every checksum agrees.
"""

from __future__ import annotations

import logging
import threading
import zipfile
from pathlib import Path
from typing import Any

import torch

from pretrain.errors import RunFailedError
from pretrain.files import replacing

log = logging.getLogger("fastmoco")

KEEP = 2


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
            reason = damage(path)
            if reason is None:
                return int(path.stem.removeprefix("step_")), torch.load(path, map_location="cpu", weights_only=True)
            log.warning("%s is damaged (%s); going back to the state before it", path, reason)
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
                torch.save(snapshot, stream)
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


def damage(path: Path) -> str | None:
    """Why a state file is not whole; None when it is."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError) as error:
        return str(error) or type(error).__name__
    return f"checksum of {bad} does not agree" if bad else None
