"""Folders of torch.distributed.checkpoint (FSDP, torchtitan, accelerate, Lightning): shards read as whole tensors.

`.metadata` is a pickle of torch's own classes, read inert like any other: which tensor lies in which pieces, and where
in the `.distcp` files each piece is. A piece is a torch zip of one tensor.
"""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evaluate.checkpoints.beside import read_beside
from evaluate.checkpoints.containers import Content
from evaluate.checkpoints.file_bytes import Array, FileBytes, OpenFile
from evaluate.checkpoints.inert import Record
from evaluate.checkpoints.limits import TENSORS, readable, shown
from evaluate.checkpoints.states import NOT_NETWORKS
from evaluate.checkpoints.tensors import NUMPY_TYPES, Storage, StoredTensor, contiguous_strides, sizes
from evaluate.checkpoints.torch_files import read_pickle, read_zip
from pretrain.runtime.errors import InputError

METADATA = ".metadata"
METADATA_BYTES = 64 * 2**20
# Opening a piece takes a millisecond; 256 ranks of a network of 300 tensors make 77,000.
PIECES = 100_000
PIECES_COMPARED = 256


@dataclass(frozen=True, eq=False)
class SplitTensor(StoredTensor):
    """A tensor in pieces.

    Attributes:
        parts: (where the piece begins, the piece), which fill the tensor exactly.
    """

    parts: tuple[tuple[tuple[int, ...], StoredTensor], ...] = ()

    def array(self) -> Array:
        """The whole tensor, in memory of its own; see `StoredTensor.array`."""
        order = tuple(sorted(range(len(self.shape)), key=lambda axis: -self.strides[axis]))
        whole = np.empty([self.shape[axis] for axis in order], np.dtype(NUMPY_TYPES[self.dtype]))
        whole = whole.transpose(np.argsort(order)) if order else whole
        for begin, part in self.parts:
            whole[tuple(slice(b, b + size) for b, size in zip(begin, part.shape, strict=True))] = part.array()
        return whole

    def same_bits(self, other: StoredTensor) -> bool:
        """Whether both hold the same bits."""
        return self is other or super().same_bits(other)


def open_distributed(folder: Path) -> Content:
    """The tensors of a folder by the keys they were saved under; those of optimizers and trainers are left alone.

    Raises:
        InputError: metadata that is damaged or of another kind, a shard that is missing, or pieces that do not fill
            their tensor.
    """
    metadata = OpenFile(folder / METADATA)
    if metadata.size > METADATA_BYTES:
        raise InputError(f"{metadata.path} has {metadata.size} bytes, more than {TENSORS} tensors need")
    try:
        return _open(folder, metadata)
    except InputError as error:
        raise InputError(f"{folder} is refused: {error}") from None


def _open(folder: Path, metadata: OpenFile) -> Content:
    _, root = read_pickle(FileBytes(metadata))
    tables = _state(root, "Metadata")
    described, places = tables.get("state_dict_metadata"), tables.get("storage_data")
    if not isinstance(described, dict) or not isinstance(places, dict):
        raise InputError("its .metadata is not that of torch.distributed.checkpoint")
    where = {_key(_state(index, "MetadataIndex")): _state(place, "_StorageInfo") for index, place in places.items()}
    paths = tables.get("planner_data")
    shards = _Shards(folder)
    content: dict[str, Any] = {}
    for name, about in described.items():
        if not isinstance(name, str) or not isinstance(about, Record) or "TensorStorage" not in about.type_name:
            continue
        path = _path(paths, name)
        if any(part in NOT_NETWORKS for part in path):
            continue
        table = content
        for part in path[:-1]:
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                raise InputError(f"its key {readable(name)} is a tensor and a table at once")
        table[path[-1]] = _tensor(name, about.state, where, shards)
    files = (metadata, *shards.files.values())
    return Content(folder, "torch.distributed.checkpoint", content, files, {}, read_beside(folder, belongs=True))


class _Shards:
    """The `.distcp` files of a folder, each opened once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, OpenFile] = {}
        self.read = 0
        self.size = sum(path.stat().st_size for path in folder.glob("*.distcp"))

    def piece(self, place: dict[str, Any]) -> StoredTensor:
        """The tensor at a place of a file. Raises InputError where there is none."""
        self.read += 1
        if self.read > PIECES:
            raise InputError(f"it lies in more than {PIECES} pieces")
        name, offset, length = (place.get(key) for key in ("relative_path", "offset", "length"))
        if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
            raise InputError(f"a piece lies in {shown(name)}, which is no file beside it")
        if place.get("transform_descriptors"):
            raise InputError("its pieces were transformed when they were saved; save them without extensions")
        if name not in self.files:
            self.files[name] = OpenFile(self.folder / name)
        offset, length = sizes((offset, length))
        file = self.files[name]
        if offset + length > file.size:
            raise InputError(f"{name} is cut short: a piece ends at byte {offset + length}")
        _, tensor = read_zip(FileBytes(file)[offset : offset + length])
        if not isinstance(tensor, StoredTensor):
            raise InputError(f"{name} holds no tensor where .metadata says so")
        return tensor


def _tensor(name: str, about: Any, where: dict[Any, dict[str, Any]], shards: _Shards) -> StoredTensor:
    about = about if isinstance(about, dict) else {}
    shape, chunks = sizes(about.get("size")), about.get("chunks")
    if not isinstance(chunks, list) or not chunks:
        raise InputError(f"tensor {readable(name)} has no pieces")
    parts = []
    for chunk in chunks:
        state = _state(chunk, "ChunkStorageMetadata")
        begin, extent = sizes(state.get("offsets")), sizes(state.get("sizes"))
        place = where.get((name, begin))
        if place is None:
            raise InputError(f"a piece of tensor {readable(name)} is nowhere")
        part = shards.piece(place)
        inside = len(begin) == len(shape) and all(b + e <= s for b, e, s in zip(begin, extent, shape, strict=False))
        if part.shape != extent or not inside:
            raise InputError(f"a piece of tensor {readable(name)} has another shape than .metadata says")
        parts.append((begin, part))
    _demand_filled(name, shape, parts)
    if len(parts) == 1:
        return parts[0][1]
    dtype = parts[0][1].dtype
    if any(part.dtype != dtype or part.negative or part.conjugate for _, part in parts):
        raise InputError(f"the pieces of tensor {readable(name)} are of different types")
    storage = Storage(dtype, math.prod(shape))
    whole = SplitTensor(storage, dtype, shape, contiguous_strides(shape), parts=tuple(parts))
    if whole.nbytes > shards.size:
        raise InputError(f"tensor {readable(name)} is larger than all files: its pieces share bytes")
    return whole


def _demand_filled(name: str, shape: tuple[int, ...], parts: list[tuple[tuple[int, ...], StoredTensor]]) -> None:
    """Pieces of the right sum that do not overlap fill the tensor."""
    if sum(part.numel for _, part in parts) != math.prod(shape) or _overlap(name, shape, parts):
        raise InputError(f"the pieces of tensor {readable(name)} do not fill its shape {shape}")


def _overlap(name: str, shape: tuple[int, ...], parts: list[tuple[tuple[int, ...], StoredTensor]]) -> bool:
    boxes = sorted((begin, tuple(b + e for b, e in zip(begin, p.shape, strict=True))) for begin, p in parts if p.numel)
    if all(p.shape[1:] == shape[1:] for _, p in parts if p.numel):  # whole rows, as FSDP cuts them
        return any(end[:1] > begin[:1] for (_, end), (begin, _) in itertools.pairwise(boxes))
    if len(boxes) > PIECES_COMPARED:
        raise InputError(f"tensor {readable(name)} lies in {len(boxes)} pieces that are no rows of it")
    return any(
        all(b < f and e < d for b, d, e, f in zip(one[0], one[1], two[0], two[1], strict=True))
        for index, one in enumerate(boxes)
        for two in boxes[index + 1 :]
    )


def _path(paths: Any, name: str) -> tuple[str, ...]:
    """The keys that led to a tensor before it was saved; its whole name where the planner does not say."""
    path = paths.get(name) if isinstance(paths, dict) else None
    if isinstance(path, tuple) and path and all(isinstance(part, str | int) for part in path):
        return tuple(map(str, path))
    return (name,)


def _key(index: dict[str, Any]) -> tuple[Any, tuple[int, ...]]:
    offset = index.get("offset")
    return (index.get("fqn") if isinstance(index.get("fqn"), str) else None), sizes(() if offset is None else offset)


def _state(value: Any, name: str) -> dict[str, Any]:
    if isinstance(value, Record) and value.type_name.endswith(f".{name}") and isinstance(value.state, dict):
        return value.state
    raise InputError(f"its .metadata is not that of torch.distributed.checkpoint (no {name})")
