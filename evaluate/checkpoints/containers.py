"""Opens a checkpoint file of any container and gives its content inert: the numbers stay in the mapped file.

Containers: torch's zip and its older stream, safetensors, plain pickles (detectron2, Caffe2, dill, numpy arrays in
them), and numpy's npz. The container is told by the file's first bytes, never by its name.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluate.checkpoints.array_files import looks_like_safetensors, read_safetensors
from evaluate.checkpoints.beside import read_beside
from evaluate.checkpoints.torch_files import read_pickle, read_zip
from pretrain.runtime.errors import InputError


@dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
        container: "torch zip", "torch legacy", "safetensors", "pickle" or "npz".
        root: dicts, lists, scalars, `StoredTensor`s over the mapped file, and `Record`s of everything else.
        header: the text pairs that a safetensors file carries.
        beside: what the files beside it say, by name (`evaluate.checkpoints.beside.NAMES`): plain JSON tables.
    """

    path: Path
    size_bytes: int
    container: str
    root: Any
    header: dict[str, str] = field(default_factory=dict)
    beside: dict[str, dict[str, Any]] = field(default_factory=dict)


def open_checkpoint(path: Path) -> Content:
    """Map the file and read its structure; its tensors are read when asked for.

    Raises:
        InputError: no such file, a container that is not known, a damaged file, or one that asks for more memory than
            its size warrants.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory; expected a checkpoint file")
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            if size == 0:
                raise InputError(f"{path} is empty")
            data = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError:
        raise InputError(f"no checkpoint file at {path}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    try:
        container, root, header = _read(path, data)
    except InputError as error:
        raise InputError(f"{path} is refused: {error}") from None
    return Content(path, size, container, root, header, read_beside(path.parent))


def _read(path: Path, data: memoryview) -> tuple[str, Any, dict[str, str]]:
    start = bytes(data[:512])
    if start[:4] == b"PK\x03\x04":
        return (*read_zip(path, data), {})
    if looks_like_safetensors(data):
        return "safetensors", *read_safetensors(data)
    if start[257:262] == b"ustar":
        raise InputError("it is a tar archive (torch before 0.1.10, or a packed folder); unpack it or save it anew")
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        raise InputError("it is an HDF5 file (Keras); expected a torch, safetensors or pickle file")
    if start[:1] in (b"\x80", b"(", b"}", b"]", b"c"):
        return (*read_pickle(data), {})
    raise InputError("its first bytes are those of no known container (torch zip, torch stream, safetensors, pickle)")
