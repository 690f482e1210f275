"""The calls that a pickled checkpoint needs, by name: plain containers, torch tensors and numpy arrays.

Nothing here calls what the file brings; a name outside the table is recorded (`evaluate.checkpoints.unpickle.Record`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evaluate.checkpoints.file_bytes import FileBytes, Readable
from evaluate.checkpoints.inert import Global, Record
from evaluate.checkpoints.limits import shown
from evaluate.checkpoints.pickle_stack import FLOOR_BYTES, TIMES_FILE_SIZE
from evaluate.checkpoints.tensors import NUMPY_TYPES, Storage, StoredTensor, contiguous_strides, view
from evaluate.checkpoints.unpickle import Machine
from pretrain.runtime.errors import InputError

# torch's typed storages; an untyped one counts bytes.
STORAGE_TYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}


# numpy's codes, as `dtype.__reduce__` writes them.
_NUMPY_CODES = {
    **{f"f{size}": f"float{8 * size}" for size in (2, 4, 8)},
    **{f"{kind}{size}": f"{word}{8 * size}" for kind, word in (("i", "int"), ("u", "uint")) for size in (1, 2, 4, 8)},
    "b1": "bool",
    "c8": "complex64",
    "c16": "complex128",
}


@dataclass(eq=False)
class ArrayShell:
    """A numpy array that the pickle has announced; its content comes later."""

    tensor: StoredTensor | None = None


@dataclass(eq=False)
class DTypeShell:
    """A numpy type: numpy's code for it and the byte order."""

    code: str
    order: str = "="

    @property
    def name(self) -> str:
        """Torch's name of the type. Raises InputError for a type that no tensor has, or big-endian numbers."""
        # numpy is not asked: it makes types of any text, of any size.
        name = _NUMPY_CODES.get(self.code)
        if name is None:
            raise InputError(f"an array of numpy type {shown(self.code)} is not read")
        if self.order == ">" and np.dtype(NUMPY_TYPES[name]).itemsize > 1:
            raise InputError("an array of big-endian numbers is not read")
        return name


ARGUMENTS = 16


def _free(size: int) -> None:
    """Nothing is read, so nothing is charged."""


class Rebuild:
    """One file's table of calls, with the memory they may take."""

    def __init__(self) -> None:
        self.charge: Callable[[int], None] = _free

    def read(self, data: Readable, file_size: int, persistent: Callable[[Any], Any] | None = None) -> tuple[Any, int]:
        """Run the pickle at the start of `data`: its object and how many bytes it took.

        Raises:
            InputError: see `Machine.run`.
        """
        machine = Machine(
            data,
            budget_bytes=FLOOR_BYTES + TIMES_FILE_SIZE * file_size,
            call=self.call,
            build=self.build,
            persistent=persistent,
        )
        self.charge = machine.charge
        try:
            return machine.run(), machine.at
        finally:
            # A machine that is referred to by what it refers to would keep its file open until some later collection.
            self.charge = _free

    def call(self, what: Global, args: tuple[Any, ...]) -> Any:
        """The object that the name would make of the arguments; NotImplemented if the table does not hold it."""
        name = str(what)
        if len(args) > ARGUMENTS and name in _CALLS:
            raise TypeError("more arguments than any such call has")
        if what.module.removeprefix("numpy.").lstrip("_") in ("core.multiarray", "core.numeric"):
            name = "numpy." + what.name
        elif what.module == "__builtin__":
            name = "builtins." + what.name
        act = _CALLS.get(name)
        return NotImplemented if act is None else act(self, *args)

    def build(self, target: Any, state: Any) -> Any:
        """Give a numpy shell its content; the attributes of plain containers are dropped."""
        if isinstance(target, ArrayShell):
            _version, shape, dtype, fortran, raw = state
            target.tensor = self._array(shape, dtype, raw, "F" if fortran else "C")
        elif isinstance(target, DTypeShell):
            target.order = state[1] if isinstance(state[1], str) else ""
            if len(state) > 4 and state[4] is not None:
                raise InputError("an array of structured numpy type is not read")
        elif isinstance(target, Record):
            return NotImplemented
        elif not isinstance(target, dict | set | StoredTensor):
            # For a dict it is what torch hides in a state dict (`_metadata`); for a tensor, what a subclass carries.
            raise TypeError("a state for what takes none")
        return None

    # Containers -----------------------------------------------------------------------------------------------------

    def _dict(self, pairs: Any = ()) -> Any:
        if isinstance(pairs, dict):
            pairs = pairs.items()
        elif not isinstance(pairs, list | tuple):
            return NotImplemented
        self.charge(64 + 100 * len(pairs))
        made = {}
        for key, value in pairs:
            if not isinstance(key, str | int | float | bytes | bool | None):
                raise TypeError("a key that is no scalar")
            made[key] = value
        return made

    def _defaultdict(self, _factory: Any = None, pairs: Any = ()) -> Any:
        return self._dict(pairs)

    def _sequence(self, values: Any = (), *, kind: type) -> Any:
        if not isinstance(values, list | tuple):
            return NotImplemented
        self.charge(216 + 80 * len(values))
        if kind in (set, frozenset) and not all(isinstance(v, str | int | float | bytes | Record) for v in values):
            raise TypeError("a set of what is no scalar")
        return kind(values)

    def _encode(self, text: Any, encoding: Any = "utf-8") -> Any:
        # How protocol 2 spells bytes.
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
            return NotImplemented
        encoded = text.encode(encoding)
        self.charge(40 + len(encoded))
        return encoded

    def _bytearray(self, value: Any = b"", encoding: Any = None) -> Any:
        return self._encode(value, encoding) if isinstance(value, str) else value

    def _newobj(self, what: Any, *args: Any) -> Any:
        made = self.call(what, args) if isinstance(what, Global) else NotImplemented
        return Record(what, args) if made is NotImplemented else made

    def _reconstructor(self, what: Any, _base: Any = None, content: Any = None) -> Any:
        return Record(what, () if content is None else (content,))

    # torch ----------------------------------------------------------------------------------------------------------

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
        if not isinstance(storage, Storage):
            raise InputError("a tensor is built on what is no storage")
        return _with_bits(view(storage, storage.dtype, offset, size, stride), rest[2:])

    def _tensor_v3(self, storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
        dtype = next((part.name for part in rest if isinstance(part, Global) and part.module == "torch"), "")
        if not isinstance(storage, Storage) or dtype not in NUMPY_TYPES:
            raise InputError(f"a tensor of type {shown(dtype)} is not read")
        itemsize = np.dtype(NUMPY_TYPES[dtype]).itemsize
        typed = Storage(dtype, storage.numel // itemsize, storage.buffer)
        return _with_bits(view(typed, dtype, offset, size, stride), rest[3:])

    def _parameter(self, data: Any = None, *_rest: Any) -> Any:
        return data

    def _from_type(self, function: Any, _type: Any, args: Any, _state: Any = None) -> Any:
        return self._newobj(function, *args)

    def _size(self, sizes: Any = ()) -> Any:
        return self._sequence(sizes, kind=tuple)

    # numpy ----------------------------------------------------------------------------------------------------------

    def _shell(self, *_args: Any) -> ArrayShell:
        return ArrayShell()

    def _dtype(self, code: Any, *_args: Any) -> Any:
        return DTypeShell(code) if isinstance(code, str) else NotImplemented

    def _from_buffer(self, raw: Any, dtype: Any, shape: Any, order: Any = "C", *_rest: Any) -> Any:
        return self._array(shape, dtype, raw, order)

    def _scalar(self, dtype: Any, raw: Any = None) -> Any:
        raw = raw.encode("latin-1") if isinstance(raw, str) else raw
        if not isinstance(dtype, DTypeShell) or not isinstance(raw, bytes) or dtype.code not in _NUMPY_CODES:
            return NotImplemented
        return np.frombuffer(raw, NUMPY_TYPES[dtype.name], count=1)[0].item()

    def _array(self, shape: Any, dtype: Any, raw: Any, order: str) -> StoredTensor | None:
        if isinstance(raw, list):
            return None  # an array of objects: inert
        if not isinstance(dtype, DTypeShell):
            return None
        if isinstance(raw, str):
            self.charge(len(raw))
            raw = raw.encode("latin-1")
        if not isinstance(raw, bytes | bytearray | memoryview | FileBytes):
            raise TypeError("an array of no bytes")
        itemsize = np.dtype(NUMPY_TYPES[dtype.name]).itemsize
        if not isinstance(shape, list | tuple):
            raise TypeError("a shape that is none")
        strides = contiguous_strides(shape if order == "C" else shape[::-1])
        storage = Storage(dtype.name, len(raw) // itemsize, raw)
        return view(storage, dtype.name, 0, shape, strides if order == "C" else strides[::-1])


def _with_bits(tensor: StoredTensor, metadata: tuple[Any, ...]) -> StoredTensor:
    """The tensor with the lazy bits that torch writes in a table at the end (`torch._utils.get_tensor_metadata`)."""
    said = metadata[0] if metadata else None
    if not said:
        return tensor
    bits = {"neg": "negative", "conj": "conjugate"}
    if not isinstance(said, dict) or not set(said) <= set(bits) or not all(isinstance(v, bool) for v in said.values()):
        raise InputError("a tensor carries marks other than torch's neg and conj")
    if (said.get("neg") and tensor.dtype == "bool") or (said.get("conj") and not tensor.dtype.startswith("complex")):
        raise InputError(f"a tensor of type {tensor.dtype} carries a mark that torch never gives it")
    return replace(tensor, **{bits[key]: value for key, value in said.items()})


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": Rebuild._dict,
    "builtins.dict": Rebuild._dict,
    "collections.Counter": Rebuild._dict,
    "collections.defaultdict": Rebuild._defaultdict,
    "builtins.list": lambda self, values=(): self._sequence(values, kind=list),
    "builtins.tuple": lambda self, values=(): self._sequence(values, kind=tuple),
    "builtins.set": lambda self, values=(): self._sequence(values, kind=set),
    "builtins.frozenset": lambda self, values=(): self._sequence(values, kind=frozenset),
    "builtins.bytearray": Rebuild._bytearray,
    "builtins.bytes": Rebuild._bytearray,
    "_codecs.encode": Rebuild._encode,
    "copyreg.__newobj__": Rebuild._newobj,
    "copy_reg.__newobj__": Rebuild._newobj,
    "copyreg._reconstructor": Rebuild._reconstructor,
    "copy_reg._reconstructor": Rebuild._reconstructor,
    "torch.Size": Rebuild._size,
    "torch._utils._rebuild_tensor": Rebuild._tensor,
    "torch._utils._rebuild_tensor_v2": Rebuild._tensor,
    "torch._utils._rebuild_tensor_v3": Rebuild._tensor_v3,
    "torch._utils._rebuild_parameter": Rebuild._parameter,
    "torch._utils._rebuild_parameter_with_state": Rebuild._parameter,
    "torch._tensor._rebuild_from_type_v2": Rebuild._from_type,
    "torch.nn.parameter.Parameter": Rebuild._parameter,
    "numpy._reconstruct": Rebuild._shell,
    "numpy._frombuffer": Rebuild._from_buffer,
    "numpy.scalar": Rebuild._scalar,
    "numpy.dtype": Rebuild._dtype,
}
