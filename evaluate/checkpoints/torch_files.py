"""Torch's two containers and plain pickles: a zip archive of storages, the older stream, and a pickle alone."""

from __future__ import annotations

import copy
import struct
import zipfile
import zlib
from typing import Any

import numpy as np

from evaluate.checkpoints.array_files import read_npy
from evaluate.checkpoints.file_bytes import FileBytes, Readable
from evaluate.checkpoints.inert import Global
from evaluate.checkpoints.limits import TENSORS, readable, shown
from evaluate.checkpoints.packed import FLOOR_BYTES, TIMES_PACKED_SIZE
from evaluate.checkpoints.rebuild import STORAGE_TYPES, Rebuild
from evaluate.checkpoints.tensors import NUMPY_TYPES, Storage
from pretrain.runtime.errors import InputError

# torch/serialization.py: the number that opens its older stream, and the stream's version.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001

# What a directory of `TENSORS` entries takes, by far.
DIRECTORY_BYTES = 200 * TENSORS

# torch's zip --------------------------------------------------------------------------------------------------------


def read_zip(data: FileBytes) -> tuple[str, Any]:
    """(container, root) of a zip archive: torch's, or numpy's npz. Raises InputError for any other or a damaged one."""
    _demand_sensible_directory(data)
    try:
        with zipfile.ZipFile(data.stream()) as archive:
            entries = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, UnicodeDecodeError) as error:
        raise InputError(f"the zip archive is damaged or cut short ({error})") from None
    if entries and all(name.endswith(".npy") for name in entries):
        packed = [info for info in entries.values() if info.compress_type != zipfile.ZIP_STORED]
        if sum(info.file_size for info in packed) > FLOOR_BYTES + TIMES_PACKED_SIZE * len(data):
            raise InputError(f"its arrays, packed, unpack to more than {TIMES_PACKED_SIZE} times the file's size")
        return "npz", {name.removesuffix(".npy"): read_npy(_array_entry(data, info)) for name, info in entries.items()}
    pickles = [name for name in entries if name == "data.pkl" or (name.count("/") == 1 and name.endswith("/data.pkl"))]
    if len(pickles) != 1:
        if "model.weights.h5" in entries:
            raise InputError("it is a Keras archive; expected a torch, safetensors, pickle or npz file")
        raise InputError("it is a zip archive without torch's data.pkl; unpack it and give the checkpoint inside")
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
                raise InputError(f"the archive lacks the numbers of a tensor ({shown(name)})")
            buffer = _entry(data, entries[name])
            if len(buffer) < numel * np.dtype(NUMPY_TYPES[dtype]).itemsize:
                raise InputError(
                    f"{shown(name)} holds {len(buffer)} bytes, fewer than its {numel} numbers of {dtype} need"
                )
            storages[key] = Storage(dtype, numel, buffer)
        if storages[key].dtype != dtype:
            return Storage(dtype, numel, storages[key].buffer)
        return storages[key]

    root, _ = Rebuild().read(_entry(data, entries[pickles[0]]), len(data), storage)
    return "torch zip", root


def _demand_sensible_directory(data: FileBytes) -> None:
    """Python makes an object of every entry of the directory before one can look at any."""
    tail = bytes(data[max(len(data) - 2**16 - 22, 0) :])
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) < at + 22:
        raise InputError("the zip archive is damaged or cut short (its directory is missing)")
    (size,) = struct.unpack("<I", tail[at + 12 : at + 16])
    wide = tail.rfind(b"PK\x06\x06", 0, at)
    if wide >= 0 and at - wide >= 56:
        size = max(size if size != 0xFFFFFFFF else 0, *struct.unpack("<Q", tail[wide + 40 : wide + 48]))
    if size > DIRECTORY_BYTES:
        raise InputError(f"the zip archive's directory has {size} bytes, more than {TENSORS} tensors need")


def _entry(data: FileBytes, info: zipfile.ZipInfo) -> FileBytes:
    # torch stores its entries without compression so that they can be mapped; anything else could grow without bound.
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise InputError(f"the archive's entry {shown(info.filename)} is compressed, which torch never does")
    if info.flag_bits & 0x1:
        raise InputError(f"the archive's entry {shown(info.filename)} is encrypted")
    at = info.header_offset
    if at < 0:
        raise InputError(f"the archive's entry {shown(info.filename)} is damaged")
    head = bytes(data[at : at + 30])
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise InputError(f"the archive's entry {shown(info.filename)} is damaged")
    name_length, extra_length = struct.unpack("<HH", head[26:30])
    begin = at + 30 + name_length + extra_length
    if begin + info.file_size > len(data):
        raise InputError(f"the archive ends within its entry {shown(info.filename)}")
    return data[begin : begin + info.file_size]


def _storage_identity(identity: Any) -> tuple[str, str, int]:
    if not isinstance(identity, tuple) or len(identity) < 5 or identity[0] != "storage":
        raise InputError("a persistent id names no storage")
    kind, key, numel = identity[1], identity[2], identity[4]
    if not isinstance(kind, Global):
        raise InputError("storages of type that is none are not read")
    dtype = STORAGE_TYPES.get(kind.name) if kind.module.startswith("torch") else None
    if dtype is None:
        raise InputError(f"storages of type {readable(str(kind))} are not read")
    if type(numel) is not int or not 0 <= numel < 2**60 or not _is_key(key):
        raise InputError("a storage declares no size")
    return dtype, str(key), numel


def _array_entry(data: FileBytes, info: zipfile.ZipInfo) -> Readable:
    """An entry of an npz, which numpy may have deflated: then in memory, no more than the directory says."""
    if info.compress_type != zipfile.ZIP_DEFLATED:
        return _entry(data, info)
    stored = copy.copy(info)
    stored.compress_type, stored.file_size = zipfile.ZIP_STORED, info.compress_size
    try:
        inflated = zlib.decompressobj(-zlib.MAX_WBITS).decompress(bytes(_entry(data, stored)), info.file_size)
    except zlib.error:
        raise InputError(f"the archive's entry {shown(info.filename)} is damaged") from None
    if len(inflated) != info.file_size:
        raise InputError(f"the archive's entry {shown(info.filename)} is cut short")
    return inflated


def _is_key(key: Any) -> bool:
    """Whether it may name a storage: torch takes addresses, in its older stream, and counts, in its zip."""
    return (type(key) is int and abs(key) < 2**64) or (isinstance(key, str) and len(key) <= 40)


# torch's older stream, and plain pickles ----------------------------------------------------------------------------


def read_pickle(data: FileBytes) -> tuple[str, Any]:
    """(container, root) of a stream that begins with a pickle. Raises InputError for a damaged one."""
    first, length = Rebuild().read(data, len(data))
    if first == LEGACY_MAGIC and type(first) is int:
        return "torch legacy", _read_legacy(data, length)
    return "pickle", first


def _read_legacy(data: FileBytes, at: int) -> Any:
    version, length = Rebuild().read(data[at:], len(data))
    at += length
    system, length = Rebuild().read(data[at:], len(data))
    at += length
    if version != LEGACY_VERSION or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise InputError(
            f"a torch stream of version {shown(version)} is not read; expected {LEGACY_VERSION}, little-endian"
        )
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
    if not isinstance(keys, list) or not all(map(_is_key, keys)) or {str(key) for key in keys} != set(storages):
        raise InputError("the stream's list of storages is not that of its tensors")
    for key in keys:
        made = storages[str(key)]
        size = made.numel * np.dtype(NUMPY_TYPES[made.dtype]).itemsize
        if at + 8 + size > len(data):
            raise InputError(f"the file is cut short: storage {key} needs {size} bytes")
        (numel,) = struct.unpack("<q", bytes(data[at : at + 8]))
        if numel != made.numel:
            raise InputError(f"storage {key} holds {numel} numbers where {made.numel} were declared")
        made.buffer = data[at + 8 : at + 8 + size]
        at += 8 + size
    return root
