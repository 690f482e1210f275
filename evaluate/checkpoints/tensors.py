"""Tensors as a file stores them: bytes of the mapped file with a type, a shape and strides. No torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluate.checkpoints.file_bytes import Array, FileBytes, Readable
from evaluate.checkpoints.limits import shown
from pretrain.runtime.errors import InputError

if TYPE_CHECKING:
    import torch


# numpy has no bfloat16 nor float8: their bits are held as unsigned integers of the same size.
NUMPY_TYPES: dict[str, str] = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "|i1",
    "uint8": "|u1",
    "uint16": "<u2",
    "uint32": "<u4",
    "uint64": "<u8",
    "bool": "|b1",
    "complex64": "<c8",
    "complex128": "<c16",
    "float8_e4m3fn": "|u1",
    "float8_e5m2": "|u1",
}
# The sign of a type that numpy holds as bits.
_SIGN_BITS = {"bfloat16": 0x8000, "float8_e4m3fn": 0x80, "float8_e5m2": 0x80}
FLOATS = ("float64", "float32", "float16", "bfloat16")
DIMENSIONS = 16


@dataclass
class Storage:
    """A run of numbers in the file; a legacy torch file names its storages before it gives their bytes."""

    dtype: str
    numel: int
    buffer: Readable | None = None


class MadeStorage(Storage):
    """Numbers made of the file's, such as query, key and value in one; made anew each time they are read.

    Attributes:
        stored_bytes: how many bytes of the file they are made of.
    """

    def __init__(self, dtype: str, numel: int, make: Callable[[], Array], stored_bytes: int) -> None:
        self.dtype, self.numel, self._make, self.stored_bytes = dtype, numel, make, stored_bytes

    @property
    def buffer(self) -> bytes:  # type: ignore[override]
        """The bytes, in memory of their own."""
        return np.ascontiguousarray(self._make()).tobytes()


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """A tensor that has not been read yet.

    Attributes:
        dtype: torch's name of the element type, a key of `NUMPY_TYPES`.
        shape, strides, offset: counted in elements, as torch counts.
        negative, conjugate: torch's lazy bits: the stored numbers stand for their negatives or conjugates.
    """

    storage: Storage = field(repr=False)
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    negative: bool = False
    conjugate: bool = False

    @property
    def numel(self) -> int:
        """How many numbers the tensor declares."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes of the file the tensor declares."""
        if isinstance(self.storage, MadeStorage):
            return self.storage.stored_bytes
        return self.numel * np.dtype(NUMPY_TYPES[self.dtype]).itemsize

    def array(self) -> Array:
        """The numbers as the file has them now, shape as declared, read-only; bfloat16 and float8 as their bits.

        Raises:
            InputError: the file holds fewer bytes than the tensor needs.
        """
        kind = np.dtype(NUMPY_TYPES[self.dtype])
        buffer = self.storage.buffer
        have = 0 if buffer is None else len(buffer) // kind.itemsize
        span = reach(self.shape, self.strides)
        if self.numel and self.offset + span > have:
            raise InputError(f"a tensor of shape {self.shape} needs more numbers than the {have} its storage holds")
        if not self.numel or buffer is None:
            return np.zeros(self.shape, kind)
        if isinstance(buffer, FileBytes):
            flat = buffer.numbers(kind, self.offset, span)
        else:
            flat = np.frombuffer(buffer, kind, count=have)[self.offset :]
        steps = tuple(stride * kind.itemsize for stride in self.strides)
        array = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)
        if self.conjugate:
            array = np.conjugate(array)
        if self.negative:
            sign = _SIGN_BITS.get(self.dtype)
            array = np.negative(array) if sign is None else array ^ kind.type(sign)
        return array

    def float32(self) -> Array:
        """The numbers as float32, a new array; exact for float16 and bfloat16, rounded for float64."""
        array = self.array()
        if self.dtype == "bfloat16":
            return np.left_shift(array.astype("<u4"), 16).view("<f4")
        if self.dtype not in FLOATS:
            raise InputError(f"a tensor of type {self.dtype} stands where floating point numbers were expected")
        return np.ascontiguousarray(array, dtype="<f4") if self.dtype != "float32" else np.array(array, order="C")

    def torch(self) -> torch.Tensor:
        """A tensor with the file's own type and bits, in memory of its own."""
        import torch

        own = torch.from_numpy(np.array(self.array(), order="C"))
        return own if str(own.dtype) == f"torch.{self.dtype}" else own.view(getattr(torch, self.dtype))

    def same_bits(self, other: StoredTensor) -> bool:
        """Whether both hold the same bits (so that NaN equals itself and -0 is not 0)."""
        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        mine, theirs = ((t.offset, t.strides, t.negative, t.conjugate) for t in (self, other))
        if self.storage is other.storage and mine == theirs:
            return True
        return bool(np.array_equal(_bits(self.array()), _bits(other.array())))


def made(dtype: str, shape: Sequence[int], make: Callable[[], Array], *parts: StoredTensor) -> StoredTensor:
    """A tensor that `make` gives (its numbers in `NUMPY_TYPES[dtype]`) out of tensors of the file."""
    storage = MadeStorage(dtype, math.prod(shape), make, sum(part.nbytes for part in parts))
    return StoredTensor(storage, dtype, tuple(shape), contiguous_strides(shape))


def joined(*parts: StoredTensor) -> StoredTensor:
    """Tensors one after the other along their first axis.

    Raises:
        InputError: they differ in type, or in shape after the first axis.
    """
    first = parts[0]
    if not first.shape or any((part.dtype, part.shape[1:]) != (first.dtype, first.shape[1:]) for part in parts):
        raise InputError(f"tensors that belong together differ: {', '.join(str(part.shape) for part in parts)}")
    shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
    return made(first.dtype, shape, lambda: np.concatenate([part.array() for part in parts]), *parts)


def reshaped(tensor: StoredTensor, *shape: int) -> StoredTensor:
    """The same numbers in another shape, row after row. Raises InputError where their number differs."""
    if math.prod(shape) != tensor.numel:
        raise InputError(f"a tensor of shape {tensor.shape} stands where {math.prod(shape)} numbers were expected")
    if tensor.strides == contiguous_strides(tensor.shape):
        return replace(tensor, shape=shape, strides=contiguous_strides(shape))
    return made(tensor.dtype, shape, lambda: np.array(tensor.array(), order="C"), tensor)


def reach(shape: Sequence[int], strides: Sequence[int]) -> int:
    """One past the last element that a strided view touches, counted from its first; 0 if it has no element."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def contiguous_strides(shape: Any) -> tuple[int, ...]:
    """Row-major strides in elements. Raises InputError for what is no shape."""
    strides: list[int] = []
    step = 1
    for size in reversed(sizes(shape)):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def view(storage: Storage, dtype: str, offset: Any, shape: Any, strides: Any) -> StoredTensor:
    """A checked view of a storage.

    Raises:
        InputError: numbers that are none, a view that leaves its storage, or elements that share memory: a few bytes
            could then stand for any number of gigabytes.
    """
    if dtype not in NUMPY_TYPES:
        raise InputError(f"tensors of type {shown(dtype)} are not read")
    shape, strides = sizes(shape), sizes(strides)
    (offset,) = sizes((offset,))
    if len(shape) != len(strides):
        raise InputError(f"a tensor declares shape {shape} with strides {strides}")
    if offset + reach(shape, strides) > storage.numel:
        raise InputError(
            f"a tensor of shape {shape}, strides {strides} and offset {offset} leaves its storage of {storage.numel}"
        )
    covered = 1
    for stride, size in sorted((stride, size) for stride, size in zip(strides, shape, strict=True) if size > 1):
        if 0 not in shape and stride < covered:
            raise InputError(f"a tensor of shape {shape} and strides {strides} has elements that share memory")
        covered = stride * (size - 1) + covered
    return StoredTensor(storage, dtype, shape, strides, offset)


def from_array(array: Array) -> StoredTensor:
    """A stored tensor over a numpy array's memory."""
    array = np.ascontiguousarray(array)
    dtype = array.dtype.name
    storage = Storage(dtype, array.size, array.reshape(-1).view(np.uint8).data if array.size else b"")
    return StoredTensor(storage, dtype, array.shape, contiguous_strides(array.shape))


def sizes(values: Any) -> tuple[int, ...]:
    """A shape, strides or offsets of a file's, checked. Raises InputError for what is none or beyond any array."""
    if (
        not isinstance(values, list | tuple)
        or len(values) > DIMENSIONS
        or not all(type(v) is int and 0 <= v < 2**48 for v in values)
        # Beside a size of 0 the others cost nothing, and may still be more than an array can count.
        or math.prod(v for v in values if v) >= 2**60
    ):
        raise InputError(f"a tensor declares sizes that are none: {shown(values)}")
    return tuple(values)


def _bits(array: Array) -> Array:
    if array.flags.c_contiguous and array.size:
        return array.reshape(-1).view(np.uint8)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
