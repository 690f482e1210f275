"""Opens a checkpoint file of any container and gives its content inert: the numbers stay in the mapped file.

Containers: torch's zip and its older stream, safetensors, plain pickles (detectron2, Caffe2, dill, numpy arrays in
them), and numpy's npz. The container is told by the file's first bytes, never by its name.
"""

from __future__ import annotations

import itertools
import json
import mmap
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluate.checkpoints.rebuild import STORAGE_TYPES, Rebuild
from evaluate.checkpoints.tensors import NUMPY_TYPES, Storage, StoredTensor, contiguous_strides, view
from evaluate.checkpoints.unpickle import Global
from pretrain.errors import InputError

# torch/serialization.py: the number that opens its older stream, and the stream's version.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001
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
# The safetensors format's own limit.
HEADER_LIMIT_BYTES = 100_000_000


@dataclass(frozen=True)
class Content:
    """What a file holds.

    Attributes:
        container: "torch zip", "torch legacy", "safetensors", "pickle" or "npz".
        root: dicts, lists, scalars, `StoredTensor`s over the mapped file, and `Record`s of everything else.
        header: the text pairs that a safetensors file carries.
    """

    path: Path
    size_bytes: int
    container: str
    root: Any
    header: dict[str, str] = field(default_factory=dict)


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
    return Content(path, size, container, root, header)


def _read(path: Path, data: memoryview) -> tuple[str, Any, dict[str, str]]:
    start = bytes(data[:512])
    if start[:4] == b"PK\x03\x04":
        return (*_read_zip(path, data), {})
    if _looks_like_safetensors(data):
        return "safetensors", *_read_safetensors(data)
    if start[257:262] == b"ustar":
        raise InputError("it is a tar archive (torch before 0.1.10, or a packed folder); unpack it or save it anew")
    if start[:8] == b"\x89HDF\r\n\x1a\n":
        raise InputError("it is an HDF5 file (Keras); expected a torch, safetensors or pickle file")
    if start[:1] in (b"\x80", b"(", b"}", b"]", b"c"):
        return (*_read_pickle(data), {})
    raise InputError("its first bytes are those of no known container (torch zip, torch stream, safetensors, pickle)")


# torch's zip --------------------------------------------------------------------------------------------------------


def _read_zip(path: Path, data: memoryview) -> tuple[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, UnicodeDecodeError) as error:
        raise InputError(f"the zip archive is damaged or cut short ({error})") from None
    if entries and all(name.endswith(".npy") for name in entries):
        return "npz", {name.removesuffix(".npy"): _npy(_entry(data, info)) for name, info in entries.items()}
    pickles = [name for name in entries if name == "data.pkl" or (name.count("/") == 1 and name.endswith("/data.pkl"))]
    if len(pickles) != 1:
        raise InputError("it is a zip archive without torch's data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    if any(name.startswith(f"{folder}code/") for name in entries) or f"{folder}constants.pkl" in entries:
        raise InputError("it is a TorchScript program, not a checkpoint: save its state_dict() instead")
    order = entries.get(f"{folder}byteorder")
    if order is not None and bytes(_entry(data, order)) != b"little":
        raise InputError("its numbers are big-endian")
    storages: dict[str, Storage] = {}

    def storage(identity: Any) -> Storage:
        dtype, key, numel = _storage_identity(identity)
        if key not in storages:
            name = f"{folder}data/{key}"
            if name not in entries:
                raise InputError(f"the archive lacks the numbers of a tensor ({name})")
            buffer = _entry(data, entries[name])
            if len(buffer) < numel * np.dtype(NUMPY_TYPES[dtype]).itemsize:
                raise InputError(f"{name} holds {len(buffer)} bytes, fewer than its {numel} numbers of {dtype} need")
            storages[key] = Storage(dtype, numel, buffer)
        if storages[key].dtype != dtype:
            return Storage(dtype, numel, storages[key].buffer)
        return storages[key]

    root, _ = Rebuild().read(_entry(data, entries[pickles[0]]), len(data), storage)
    return "torch zip", root


def _entry(data: memoryview, info: zipfile.ZipInfo) -> memoryview:
    # torch stores its entries without compression so that they can be mapped; anything else could grow without bound.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise InputError(f"the archive's entry {info.filename!r} is compressed, which torch never does")
    if info.flag_bits & 0x1:
        raise InputError(f"the archive's entry {info.filename!r} is encrypted")
    at = info.header_offset
    head = bytes(data[at : at + 30])
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise InputError(f"the archive's entry {info.filename!r} is damaged")
    name_length, extra_length = struct.unpack("<HH", head[26:30])
    begin = at + 30 + name_length + extra_length
    if begin + info.file_size > len(data):
        raise InputError(f"the archive ends within its entry {info.filename!r}")
    return data[begin : begin + info.file_size]


def _storage_identity(identity: Any) -> tuple[str, str, int]:
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        raise InputError("a persistent id names no storage")
    kind, key, numel = identity[1], identity[2], identity[4]
    dtype = STORAGE_TYPES.get(kind.name) if isinstance(kind, Global) and kind.module.startswith("torch") else None
    if dtype is None:
        raise InputError(f"storages of type {kind} are not read")
    if type(numel) is not int or numel < 0 or not isinstance(key, str | int):
        raise InputError("a storage declares no size")
    return dtype, str(key), numel


# torch's older stream, and plain pickles ----------------------------------------------------------------------------


def _read_pickle(data: memoryview) -> tuple[str, Any]:
    first, length = Rebuild().read(data, len(data))
    if first == LEGACY_MAGIC and type(first) is int:
        return "torch legacy", _read_legacy(data, length)
    return "pickle", first


def _read_legacy(data: memoryview, at: int) -> Any:
    version, length = Rebuild().read(data[at:], len(data))
    at += length
    system, length = Rebuild().read(data[at:], len(data))
    at += length
    if version != LEGACY_VERSION or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError(f"a torch stream of version {version} is not read; expected {LEGACY_VERSION}, little-endian")
    storages: dict[str, Storage] = {}

    def storage(identity: Any) -> Storage:
        dtype, key, numel = _storage_identity(identity)
        made = storages.setdefault(key, Storage(dtype, numel))
        if (made.dtype, made.numel) != (dtype, numel):
            raise InputError(f"storage {key} is declared twice, differently")
        window = identity[5] if len(identity) > 5 else None
        if window is not None:
            raise InputError("a torch stream with views of storages (torch 0.3 and older) is not read; save it anew")
        return made

    root, length = Rebuild().read(data[at:], len(data), storage)
    at += length
    keys, length = Rebuild().read(data[at:], len(data))
    at += length
    if not isinstance(keys, list) or {str(key) for key in keys} != set(storages):
        raise InputError("the stream's list of storages is not that of its tensors")
    for key in keys:
        made = storages[str(key)]
        size = made.numel * np.dtype(NUMPY_TYPES[made.dtype]).itemsize
        if at + 8 + size > len(data):
            raise InputError(f"the file is cut short: storage {key} needs {size} bytes")
        (numel,) = struct.unpack("<q", data[at : at + 8])
        if numel != made.numel:
            raise InputError(f"storage {key} holds {numel} numbers where {made.numel} were declared")
        made.buffer = data[at + 8 : at + 8 + size]
        at += 8 + size
    return root


# safetensors and numpy ----------------------------------------------------------------------------------------------


def _looks_like_safetensors(data: memoryview) -> bool:
    if len(data) < 10:
        return False
    (length,) = struct.unpack("<Q", data[:8])
    return 2 <= length <= HEADER_LIMIT_BYTES and data[8] == ord("{")


def _read_safetensors(data: memoryview) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    (length,) = struct.unpack("<Q", data[:8])
    if 8 + length > len(data):
        raise InputError("the file is cut short within its header")
    try:
        header = json.loads(bytes(data[8 : 8 + length]), object_pairs_hook=_no_key_twice)
    except (ValueError, RecursionError):
        raise InputError("its header is not JSON") from None
    body = data[8 + length :]
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise InputError("its metadata is not a table of texts")
    tensors: dict[str, StoredTensor] = {}
    spans: list[tuple[int, int]] = []
    for name, entry in header.items():
        try:
            dtype, shape, (begin, end) = SAFETENSORS_TYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
            ok = 0 <= begin <= end <= len(body)
        except (KeyError, TypeError, ValueError):
            raise InputError(f"the entry of tensor {str(name)[:80]!r} is not one of safetensors") from None
        if not ok:
            raise InputError(f"the file is cut short: tensor {name!r} lies outside it")
        storage = Storage(dtype, (end - begin) // np.dtype(NUMPY_TYPES[dtype]).itemsize, body[begin:end])
        tensor = view(storage, dtype, 0, shape, list(contiguous_strides(shape)))
        if tensor.nbytes != end - begin:
            raise InputError(f"tensor {name!r} of shape {shape} does not fill its {end - begin} bytes")
        tensors[name] = tensor
        spans.append((begin, end))
    spans.sort()
    if any(end > begin for (_, end), (begin, _) in itertools.pairwise(spans)):
        raise InputError("two tensors of the file share bytes, which safetensors forbids")
    return tensors, metadata


def _no_key_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    return made


def _npy(data: memoryview) -> StoredTensor:
    head = bytes(data[:12])
    if head[:6] != b"\x93NUMPY" or head[6] not in (1, 2, 3):
        raise InputError("an entry of the npz archive is not numpy's")
    width = 2 if head[6] == 1 else 4
    (length,) = struct.unpack("<H" if width == 2 else "<I", head[8 : 8 + width])
    if length > 10_000:
        raise InputError("an entry of the npz archive has a header of unusual size")
    begin = 8 + width + length
    header = _npy_header(bytes(data[8 + width : begin]))
    kind = np.dtype(header["descr"]) if header["descr"] in _NPY_TYPES else None
    if kind is None:
        raise InputError(f"an npz array of numpy type {header['descr']!r} is not read")
    shape = header["shape"]
    strides = contiguous_strides(shape[::-1])[::-1] if header["fortran_order"] else contiguous_strides(shape)
    body = data[begin:]
    return view(Storage(kind.name, len(body) // kind.itemsize, body), kind.name, 0, shape, strides)


_NPY_TYPES = ("<f8", "<f4", "<f2", "<i8", "<i4", "<i2", "|i1", "|u1", "|b1")


def _npy_header(text: bytes) -> dict[str, Any]:
    import ast

    try:
        header = ast.literal_eval(text.decode("latin-1").strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        raise InputError("an entry of the npz archive has a damaged header") from None
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise InputError("an entry of the npz archive has a damaged header")
    return header
