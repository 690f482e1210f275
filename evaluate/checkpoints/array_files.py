"""Containers of plain arrays: safetensors, and the `.npy` entries of numpy's npz."""

from __future__ import annotations

import ast
import itertools
import json
import struct
from typing import Any

import numpy as np

from evaluate.checkpoints.file_bytes import Readable
from evaluate.checkpoints.limits import TENSORS, shown
from evaluate.checkpoints.tensors import NUMPY_TYPES, Storage, StoredTensor, contiguous_strides, view
from pretrain.runtime.errors import InputError

SAFETENSORS_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
# The format allows 100 MB; at 100 bytes a tensor this is room for a hundred thousand.
HEADER_LIMIT_BYTES = 100_000_000
HEADER_READ_BYTES = 10_000_000


def looks_like_safetensors(start: bytes) -> bool:
    """Whether the first bytes are a header length and the start of a table."""
    if len(start) < 10:
        return False
    (length,) = struct.unpack("<Q", start[:8])
    return 2 <= length <= HEADER_LIMIT_BYTES and start[8] == ord("{")


def read_safetensors(data: Readable) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """The tensors by name, and the header's own text pairs. Raises InputError for a header that does not hold."""
    (length,) = struct.unpack("<Q", bytes(data[:8]))
    if length > HEADER_READ_BYTES:
        raise InputError(f"its header has {length} bytes, more than {TENSORS} tensors need")
    if 8 + length > len(data):
        raise InputError("the file is cut short within its header")
    try:
        header = json.loads(bytes(data[8 : 8 + length]), object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError):
        raise InputError("its header is not JSON") from None
    if not isinstance(header, dict):
        raise InputError("its header is no table")
    body = data[8 + length :]
    metadata = header.pop("__metadata__", None) or {}
    if len(header) > TENSORS:
        raise InputError(f"it declares {len(header)} tensors, more than {TENSORS}")
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InputError("its metadata is not a table of texts")
    tensors: dict[str, StoredTensor] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        try:
            dtype, shape, (begin, end) = SAFETENSORS_TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
        except (KeyError, TypeError, ValueError):
            raise InputError(f"the entry of tensor {shown(name)} is not one of safetensors") from None
        if type(begin) is not int or type(end) is not int:
            raise InputError(f"the offsets of tensor {shown(name)} are no whole numbers")
        if not 0 <= begin <= end <= len(body):
            raise InputError(f"the file is cut short: tensor {shown(name)} lies outside it")
        storage = Storage(dtype, (end - begin) // np.dtype(NUMPY_TYPES[dtype]).itemsize, body[begin:end])
        tensor = view(storage, dtype, 0, shape, list(contiguous_strides(shape)))
        if tensor.nbytes != end - begin:
            raise InputError(f"tensor {shown(name)} of shape {shown(shape)} does not fill its {end - begin} bytes")
        tensors[name] = tensor
        spans.append((begin, end))
    spans.sort()
    if any(end > begin for (_, end), (begin, _) in itertools.pairwise(spans)):
        raise InputError("two tensors of the file share bytes, which safetensors forbids")
    covered = sum(end - begin for begin, end in spans)
    if covered != len(body):
        raise InputError(
            f"{len(body) - covered} of its {len(body)} bytes belong to no tensor, which safetensors forbids"
        )
    return tensors, metadata


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    return made


def read_npy(data: Readable) -> StoredTensor:
    """The array of one `.npy` entry. Raises InputError for arrays of objects and for damaged headers."""
    head = bytes(data[:12])
    if head[:6] != b"\x93NUMPY" or head[6] not in (1, 2, 3):
        raise InputError("an entry of the npz archive is not numpy's")
    width = 2 if head[6] == 1 else 4
    (length,) = struct.unpack("<H" if width == 2 else "<I", head[8 : 8 + width])
    if length > 10_000:
        raise InputError("an entry of the npz archive has a header of unusual size")
    begin = 8 + width + length
    header = _npy_header(bytes(data[8 + width : begin]))
    code = header["descr"]
    kind = np.dtype(code) if isinstance(code, str) and code in _NPY_TYPES else None
    if kind is None:
        raise InputError(f"an npz array of numpy type {shown(header['descr'])} is not read")
    shape = header["shape"]
    if not isinstance(shape, tuple):
        raise InputError("an entry of the npz archive has a damaged header")
    strides = contiguous_strides(shape[::-1])[::-1] if header["fortran_order"] else contiguous_strides(shape)
    body = data[begin:]
    return view(Storage(kind.name, len(body) // kind.itemsize, body), kind.name, 0, shape, strides)


_NPY_TYPES = ("<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "|i1", "|u1", "|b1")


def _npy_header(text: bytes) -> dict[str, Any]:
    try:
        header = ast.literal_eval(text.decode("latin-1").strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise InputError("an entry of the npz archive has a damaged header") from None
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise InputError("an entry of the npz archive has a damaged header")
    return header
