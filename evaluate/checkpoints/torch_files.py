"""Torch's two containers and plain pickles: a zip archive of storages, the older stream, and a pickle alone."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from evaluate.checkpoints.array_files import read_npy
from evaluate.checkpoints.inert import Global
from evaluate.checkpoints.rebuild import STORAGE_TYPES, Rebuild
from evaluate.checkpoints.tensors import NUMPY_TYPES, Storage
from pretrain.runtime.errors import InputError

# torch/serialization.py: the number that opens its older stream, and the stream's version.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_VERSION = 1001

# torch's zip --------------------------------------------------------------------------------------------------------


def read_zip(path: Path, data: memoryview) -> tuple[str, Any]:
    """(container, root) of a zip archive: torch's, or numpy's npz. Raises InputError for any other or a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error, UnicodeDecodeError) as error:
        raise InputError(f"the zip archive is damaged or cut short ({error})") from None
    if entries and all(name.endswith(".npy") for name in entries):
        return "npz", {name.removesuffix(".npy"): read_npy(_entry(data, info)) for name, info in entries.items()}
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


def read_pickle(data: memoryview) -> tuple[str, Any]:
    """(container, root) of a stream that begins with a pickle. Raises InputError for a damaged one."""
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
