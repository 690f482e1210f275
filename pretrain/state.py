"""What a run resumes from: written aside in the background, verified when read, the two newest kept.

A state file is what `torch.save` writes, then 40 bytes of ours: the SHA-256 of what stands before, and a mark. (The
archive's own CRC-32s leave its directory unprotected.)
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pretrain.recipe import BOOKKEEPING, Recipe
from pretrain.runtime.errors import InputError, RunFailedError
from pretrain.runtime.files import replacing

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
        self._tidy = False
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
        if not self._tidy:  # by the run's one writer: what a killed process of this run had begun to write
            for left in self.directory.glob(".step_*.pt.*.partial"):
                left.unlink(missing_ok=True)
            self._tidy = True
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

    def remove(self, *, keep: int = 0) -> None:
        """Remove the states but the `keep` newest; a file without our mark at its end is somebody else's, and stays.

        Damaged states count too: they are older than a whole one, so nothing is lost with them.
        """
        for old in sorted(self.directory.glob("step_*.pt"), reverse=True)[keep:]:
            if _is_marked(old):
                old.unlink()

    def _write(self, step: int, snapshot: dict[str, Any]) -> None:
        path = self.directory / f"step_{step:08d}.pt"
        hashing: _Hashing | None = None
        try:
            with replacing(path) as stream:
                hashing = _Hashing(stream)
                torch.save(snapshot, hashing)  # type: ignore[arg-type]  # writes with `write` alone
                stream.write(hashing.digest() + MARK)
            self.remove(keep=KEEP)
        except (OSError, RuntimeError) as error:  # torch's archive writer reports a failed write as RuntimeError
            self._failure = (hashing.failure if hashing else None) or error

    def _copy(self, value: Any, at: tuple[str, ...]) -> Any:
        if isinstance(value, torch.Tensor):
            # Buffers are kept from save to save: fresh pages cost more than the copy itself. They have the layout of
            # what they hold, so that the copy is one of plain memory.
            buffer = self._buffers.get(at)
            if buffer is None or _plan(buffer) != _plan(value):
                buffer = self._buffers[at] = torch.empty_like(value, device="cpu")
            return buffer.copy_(value.detach())
        if isinstance(value, dict):
            return {key: self._copy(item, (*at, str(key))) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._copy(item, (*at, str(index))) for index, item in enumerate(value))
        return value


def require_finite(state: Mapping[str, Any], what: str) -> None:
    """Raise RunFailedError when a weight in `state` is NaN or infinite: such a state must not replace a good one."""
    names = [name for name, tensor in state.items() if tensor.is_floating_point()]
    finite = torch.stack([torch.isfinite(state[name]).all() for name in names]).tolist()  # a GPU is waited for once
    bad = [name for name, good in zip(names, finite, strict=True) if not good]
    if bad:
        raise RunFailedError(f"{what}: the values of {bad[0]} are not finite")


def _plan(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.dtype, tensor.shape, tensor.stride()


def _is_marked(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(max(path.stat().st_size - len(MARK), 0))
        return stream.read() == MARK


def whole_content(path: Path) -> memoryview | None:
    """What stands before the checksum of a state file; None when the checksum does not agree or is not there."""
    data = memoryview(Path(path).read_bytes())
    content, tail = data[:-TAIL], bytes(data[-TAIL:])
    return content if tail == hashlib.sha256(content).digest() + MARK else None


def refuse_other_run(state: dict[str, Any], recipe: Recipe, seed: int, images: str) -> None:
    """Raise InputError, naming the field, when a state was made by another recipe, seed or set of images."""
    # A field that came later counts as what was done before it.
    before, now = (type(recipe).identity_of(values) for values in (state["recipe"], recipe.model_dump(mode="json")))
    for field in now.keys() | before.keys():
        if field not in BOOKKEEPING and before.get(field) != now.get(field):
            raise InputError(
                f"cannot resume: the state was made with {field} {before.get(field)!r}, now it is {now.get(field)!r}; "
                "keep the recipe or choose another --out"
            )
    for what, then, given in (("seed", state["seed"], seed), ("images", state["images"], images)):
        if then != given:
            raise InputError(
                f"cannot resume: the state was made with {what} {then}, now it is {given}; choose another --out"
            )


class _Hashing:
    """A stream to write to that hashes what passes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._hash = stream, hashlib.sha256()
        self.failure: OSError | None = None  # why a write failed, which torch's own error does not say

    def write(self, data: bytes) -> int:
        self._hash.update(data)
        try:
            return self._stream.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self._stream.flush()

    def digest(self) -> bytes:
        return self._hash.digest()
