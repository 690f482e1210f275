"""Opens a checkpoint file of any container and gives its content inert: the numbers stay in the file until asked for.

Containers: torch's zip and its older stream, safetensors, plain pickles (detectron2, Caffe2, dill, numpy arrays in
them), numpy's npz, and each of these packed by gzip, xz or zstd. The container is told by the file's first bytes, never
by its name.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluate.checkpoints.array_files import looks_like_safetensors, read_safetensors
from evaluate.checkpoints.beside import belongs, read_beside
from evaluate.checkpoints.file_bytes import FileBytes, OpenFile
from evaluate.checkpoints.limits import one_sentence
from evaluate.checkpoints.packed import packer, unpacked
from evaluate.checkpoints.recognise import START_BYTES, foreign, is_text
from evaluate.checkpoints.torch_files import read_pickle, read_zip
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import canonical_hash


@dataclass(frozen=True)
class Content:
    """What a file, or the files of a folder, hold.

    Attributes:
        path: of the file or folder that was named.
        container: "torch zip", "torch legacy", "safetensors", "pickle", "npz", or "torch.distributed.checkpoint".
        root: dicts, lists, scalars, `StoredTensor`s over the open files, and `Record`s of everything else.
        files: the open files themselves, as they were given.
        header: the text pairs that a safetensors file carries.
        beside: what the files beside it say, by name (`evaluate.checkpoints.beside.NAMES`): plain JSON tables.
    """

    path: Path
    container: str
    root: Any
    files: tuple[OpenFile, ...]
    header: dict[str, str] = field(default_factory=dict)
    beside: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Of all files, as they lie on the disk."""
        return sum(file.size for file in self.files)

    @property
    def unpacked_bytes(self) -> int:
        """What the tensors can declare at most without sharing memory."""
        return sum(file.holds for file in self.files)

    def sha256(self) -> str:
        """Of the file; of several, of the lines that `sha256sum` prints of them, in the order of their names."""
        if len(self.files) == 1:
            return self.files[0].sha256()
        lines = sorted(f"{file.sha256()}  {file.path.name}\n" for file in self.files)
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def description(self) -> str | None:
        """SHA-256 of what the files beside it say, which may decide what the weights compute; None where none is."""
        return canonical_hash(self.beside) if self.beside else None

    def demand_unchanged(self) -> None:
        """Raises InputError when somebody has written to a file since it was opened."""
        for file in self.files:
            file.demand_unchanged()


def open_file(path: Path) -> Content:
    """Read a file's structure; its tensors are read when asked for.

    Raises:
        InputError: no such file, a container that is not known, a damaged file, or one that asks for more memory or
            work than its size warrants.
    """
    path = Path(path)
    with one_sentence(path), warnings.catch_warnings():
        # Python warns of odd escapes in texts that it parses; these are a stranger's, not ours.
        warnings.simplefilter("ignore")
        file = OpenFile(path)
        if file.size == 0:
            raise InputError(f"{path} is empty")
        try:
            data = FileBytes(file)
            if (kind := packer(bytes(data[:8]))) is not None:
                data = FileBytes(unpacked(file, kind))
                file.holds = len(data)
            container, root, header = _read(path, data)
        except InputError as error:
            raise InputError(f"{path} is refused: {error}") from None
        return Content(path, container, root, (file,), header, read_beside(path.parent, belongs=belongs(path)))


def _read(path: Path, data: FileBytes) -> tuple[str, Any, dict[str, str]]:
    start = bytes(data[:START_BYTES])
    if start[:4] == b"PK\x03\x04":
        return (*read_zip(data), {})
    if looks_like_safetensors(start):
        return "safetensors", *read_safetensors(data)
    if (said := foreign(path, start)) is not None:
        raise InputError(said)
    try:
        if start[:1] in (b"\x80", b"(", b"}", b"]", b"c"):
            return (*read_pickle(data), {})
        raise InputError(
            "its first bytes are those of no known container (torch zip, torch stream, safetensors, pickle)"
        )
    except InputError:
        if is_text(start):
            raise InputError("it is a text, not a checkpoint") from None
        raise
