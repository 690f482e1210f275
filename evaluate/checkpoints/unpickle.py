"""Reads pickles without running them: a machine for pickle opcodes that can call nothing of the file's choice.

Python's own unpickler imports what the file names and calls it. This machine never imports: a name becomes a `Global`,
a call becomes a `Record` of what would have been called, and the few calls that plain containers and tensors need
(`evaluate.checkpoints.rebuild`) are looked up in a table by name. The opcodes are those of the pickle protocols 0 to 5
(CPython's `pickletools`).

Memory: strings of bytes are views of the file; everything else is charged to a budget of a few times the file's size,
because one byte of a pickle can ask for an object of two hundred.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from pretrain.errors import InputError

# A budget that every honest checkpoint stays far under: their pickles hold names and shapes, not numbers.
FLOOR_BYTES = 64 * 2**20
TIMES_FILE_SIZE = 3


@dataclass(frozen=True)
class Global:
    """A name of the file's choice, never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Record:
    """What the file would have made by calling `what`: inert, with everything it was given."""

    what: Any
    args: Any = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: dict[Hashable, Any] = field(default_factory=dict)

    @property
    def type_name(self) -> str:
        """The dotted name of what would have been called."""
        made_by = self.what
        while isinstance(made_by, Record):
            made_by = made_by.what
        return str(made_by) if isinstance(made_by, Global) else type(made_by).__name__

    def __repr__(self) -> str:
        return f"<{self.type_name}, not run>"


class _Mark:
    pass


_MARK = _Mark()
_SCALARS = (str, int, float, bool, bytes, type(None), Global, Record)

Call = Callable[[Global, tuple[Any, ...]], Any]


class Machine:
    """One pickle's run.

    Args:
        data: the bytes, for instance a view of a mapped file.
        budget_bytes: how much memory the objects may take.
        call: makes an object for a name and arguments, or returns NotImplemented to have it recorded.
        build: gives an object its state, or returns NotImplemented.
        persistent: makes an object for a persistent id; without it such ids are recorded.
    """

    def __init__(
        self,
        data: memoryview,
        *,
        budget_bytes: int,
        call: Call,
        build: Callable[[Any, Any], Any],
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self.data = data
        self.at = 0
        self.left = budget_bytes
        self.call, self.build, self.persistent = call, build, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The pickle's object; `self.at` is then the byte after it.

        Raises:
            InputError: a pickle that is damaged, asks for more memory than its size warrants, or uses an opcode that
                no checkpoint needs.
        """
        try:
            while True:
                opcode = self._byte()
                if opcode == _STOP:
                    return self._pop()
                _OPCODES[opcode](self)
        except InputError:
            raise
        except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
            raise InputError(f"the pickle is damaged near byte {self.at} ({type(error).__name__})") from None

    def charge(self, size: int) -> None:
        """Take `size` bytes from the budget."""
        self.left -= size
        if self.left < 0:
            raise InputError(f"the pickle asks for far more memory than its size warrants (byte {self.at})")

    # Reading --------------------------------------------------------------------------------------------------------

    def _byte(self) -> int:
        value = self.data[self.at]
        self.at += 1
        return value

    def _take(self, count: int) -> memoryview:
        if count < 0 or self.at + count > len(self.data):
            raise InputError(f"the pickle ends early: {count} bytes were announced at byte {self.at}")
        piece = self.data[self.at : self.at + count]
        self.at += count
        return piece

    def _skip(self, count: int) -> None:
        self._take(count)

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> bytes:
        # A chunk at a time: a line has no announced length, and the data may be a whole mapped file.
        start, chunk = self.at, 256
        while True:
            piece = bytes(self.data[start : start + chunk])
            end = piece.find(b"\n")
            if end >= 0:
                self.at = start + end + 1
                return piece[:end]
            if start + chunk >= len(self.data):
                raise InputError(f"the pickle ends early: a line that begins at byte {start} has no end")
            chunk *= 2

    # The stack ------------------------------------------------------------------------------------------------------

    def _push(self, value: Any, cost: int = 0) -> None:
        self.charge(8 + cost)
        self.stack.append(value)

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark stands where a value was expected")
        return value

    def _pop_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError("no mark")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def _text(self, raw: memoryview | bytes) -> None:
        self._push(str(raw, "utf-8", "surrogatepass"), 56 + 2 * len(raw))

    def _bytes(self, count: int) -> None:
        # Long ones are a tensor's numbers: a view of the file, no copy.
        piece = self._take(count)
        self._push(piece if count > 4096 else bytes(piece), 200 if count > 4096 else 40 + count)

    def _latin(self, count: int) -> None:
        # Python 2's str is text for names and bytes for an array's numbers; no name is this long.
        piece = self._take(count)
        self._push(piece if count > 4096 else str(piece, "latin-1"), 200 if count > 4096 else 56 + count)

    def _keep(self, index: int) -> None:
        self.charge(120)
        self.memo[index] = self.stack[-1]

    # Objects --------------------------------------------------------------------------------------------------------

    def _global(self, module: str, name: str) -> None:
        self._push(Global(module, name), 160)

    def _reduce(self, what: Any, args: Any) -> None:
        if not isinstance(args, tuple):
            raise TypeError("arguments that are no tuple")
        made = self.call(what, args) if isinstance(what, Global) else NotImplemented
        self._push(Record(what, args) if made is NotImplemented else made, 300)

    def _set(self, target: Any, key: Any, value: Any) -> None:
        if isinstance(target, Record):
            target = target.pairs
        if not isinstance(target, dict):
            raise TypeError("an item set on what is no dict")
        self.charge(100)
        target[_hashable(key)] = value

    def _append(self, target: Any, values: list[Any]) -> None:
        if isinstance(target, Record):
            target = target.items
        if not isinstance(target, list):
            raise TypeError("an item appended to what is no list")
        self.charge(8 * len(values))
        target.extend(values)

    def _add(self, target: Any, values: list[Any]) -> None:
        if isinstance(target, Record):
            target.items.extend(values)
        elif isinstance(target, set):
            target.update(_hashable(value) for value in values)
        else:
            raise TypeError("an item added to what is no set")
        self.charge(80 * len(values))

    # Opcodes: pickletools' names -------------------------------------------------------------------------------------

    def _op_pop(self) -> None:
        self.stack.pop()

    def _op_pop_mark(self) -> None:
        self._pop_mark()

    def _op_int(self) -> None:
        line = self._line()
        self._push(line == b"01" if line in (b"00", b"01") else int(line), 32)

    def _op_long1(self) -> None:
        self._long(self._byte())

    def _op_long4(self) -> None:
        self._long(self._number("<i"))

    def _long(self, count: int) -> None:
        self._push(int.from_bytes(self._take(count), "little", signed=True), 32 + count)

    def _op_string(self) -> None:
        line = self._line().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise ValueError("a string without quotes")
        self._push(line[1:-1].decode("unicode_escape"), 56 + 4 * len(line))

    def _op_unicode(self) -> None:
        line = self._line()
        self._push(str(line, "raw-unicode-escape"), 56 + 4 * len(line))

    def _op_bytearray8(self) -> None:
        self._bytes(self._number("<Q"))

    def _op_list(self) -> None:
        values = self._pop_mark()
        self._push(values, 56 + 8 * len(values))

    def _op_tuple(self) -> None:
        values = self._pop_mark()
        self._push(tuple(values), 48 + 8 * len(values))

    def _tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("a tuple of more than there is")
        values = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(values)), 48 + 8 * count)

    def _op_dict(self) -> None:
        values = self._pop_mark()
        made: dict[Any, Any] = {}
        for key, value in zip(values[::2], values[1::2], strict=True):
            self._set(made, key, value)
        self._push(made, 64)

    def _op_frozenset(self) -> None:
        made = {_hashable(value) for value in self._pop_mark()}
        self._push(frozenset(made), 216 + 80 * len(made))

    def _op_append(self) -> None:
        value = self._pop()
        self._append(self.stack[-1], [value])

    def _op_appends(self) -> None:
        values = self._pop_mark()
        self._append(self.stack[-1], values)

    def _op_additems(self) -> None:
        values = self._pop_mark()
        self._add(self.stack[-1], values)

    def _op_setitem(self) -> None:
        value, key = self._pop(), self._pop()
        self._set(self.stack[-1], key, value)

    def _op_setitems(self) -> None:
        values = self._pop_mark()
        for key, value in zip(values[::2], values[1::2], strict=True):
            self._set(self.stack[-1], key, value)

    def _op_put(self) -> None:
        self._keep(int(self._line()))

    def _op_get(self) -> None:
        self._push(self.memo[int(self._line())])

    def _op_global(self) -> None:
        module, name = self._line(), self._line()
        self._global(module.decode(), name.decode())

    def _op_stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is no text")
        self._global(module, name)

    def _op_inst(self) -> None:
        module, name = self._line().decode(), self._line().decode()
        self._reduce(Global(module, name), tuple(self._pop_mark()))

    def _op_obj(self) -> None:
        what, *args = self._pop_mark()
        self._reduce(what, tuple(args))

    def _op_reduce(self) -> None:
        args, what = self._pop(), self._pop()
        self._reduce(what, args)

    def _op_newobj_ex(self) -> None:
        keywords, args, what = self._pop(), self._pop(), self._pop()
        if keywords:
            self._push(Record(what, (*args, keywords)), 300)
        else:
            self._reduce(what, args)

    def _op_build(self) -> None:
        state = self._pop()
        target = self.stack[-1]
        made = self.build(target, state)
        if made is not NotImplemented:
            return
        if isinstance(target, Record):
            target.state = state

    def _op_persid(self) -> None:
        self._persistent(self._line().decode())

    def _op_binpersid(self) -> None:
        self._persistent(self._pop())

    def _persistent(self, identity: Any) -> None:
        made = self.persistent(identity) if self.persistent else Record(Global("pickle", "persistent id"), (identity,))
        self._push(made, 300)

    def _op_refused(self) -> None:
        raise InputError(f"the pickle uses opcode {self.data[self.at - 1]:#04x}, which no checkpoint needs")


def _hashable(key: Any) -> Any:
    # Nested tuples are refused: the hash of a tuple that holds another twice, thirty levels deep, never returns.
    if isinstance(key, tuple):
        if not all(isinstance(part, _SCALARS) for part in key):
            raise TypeError("a key of nested tuples")
    elif not isinstance(key, _SCALARS):
        raise TypeError("a key that is no scalar")
    return key


_STOP = ord(".")
_REFUSED = ("\x82", "\x83", "\x84", "\x97", "\x98")  # EXT1 EXT2 EXT4, NEXT_BUFFER, READONLY_BUFFER
_TABLE: dict[str, Callable[[Machine], None]] = {
    # the machine itself: PROTO FRAME MARK POP POP_MARK DUP
    "\x80": lambda m: m._skip(1),
    "\x95": lambda m: m._skip(8),
    "(": lambda m: m._push(_MARK),
    "0": Machine._op_pop,
    "1": Machine._op_pop_mark,
    "2": lambda m: m._push(m.stack[-1]),
    # scalars: NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    "N": lambda m: m._push(None),
    "\x88": lambda m: m._push(True),
    "\x89": lambda m: m._push(False),
    "I": Machine._op_int,
    "J": lambda m: m._push(m._number("<i"), 32),
    "K": lambda m: m._push(m._byte()),
    "M": lambda m: m._push(m._number("<H"), 32),
    "L": lambda m: m._push(int(m._line().rstrip(b"L")), 64),
    "\x8a": Machine._op_long1,
    "\x8b": Machine._op_long4,
    "F": lambda m: m._push(float(m._line()), 24),
    "G": lambda m: m._push(m._number(">d"), 24),
    # text and bytes: STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
    # SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8
    "S": Machine._op_string,
    "T": lambda m: m._latin(m._number("<i")),
    "U": lambda m: m._latin(m._byte()),
    "V": Machine._op_unicode,
    "\x8c": lambda m: m._text(m._take(m._byte())),
    "X": lambda m: m._text(m._take(m._number("<I"))),
    "\x8d": lambda m: m._text(m._take(m._number("<Q"))),
    "C": lambda m: m._bytes(m._byte()),
    "B": lambda m: m._bytes(m._number("<I")),
    "\x8e": lambda m: m._bytes(m._number("<Q")),
    "\x96": Machine._op_bytearray8,
    # containers: EMPTY_LIST EMPTY_TUPLE EMPTY_DICT EMPTY_SET LIST TUPLE TUPLE1 TUPLE2 TUPLE3 DICT FROZENSET
    # APPEND APPENDS ADDITEMS SETITEM SETITEMS
    "]": lambda m: m._push([], 56),
    ")": lambda m: m._push(()),
    "}": lambda m: m._push({}, 64),
    "\x8f": lambda m: m._push(set(), 216),
    "l": Machine._op_list,
    "t": Machine._op_tuple,
    "\x85": lambda m: m._tuple_of(1),
    "\x86": lambda m: m._tuple_of(2),
    "\x87": lambda m: m._tuple_of(3),
    "d": Machine._op_dict,
    "\x91": Machine._op_frozenset,
    "a": Machine._op_append,
    "e": Machine._op_appends,
    "\x90": Machine._op_additems,
    "s": Machine._op_setitem,
    "u": Machine._op_setitems,
    # the memo: PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
    "p": Machine._op_put,
    "q": lambda m: m._keep(m._byte()),
    "r": lambda m: m._keep(m._number("<I")),
    "\x94": lambda m: m._keep(len(m.memo)),
    "g": Machine._op_get,
    "h": lambda m: m._push(m.memo[m._byte()]),
    "j": lambda m: m._push(m.memo[m._number("<I")]),
    # names and calls: GLOBAL STACK_GLOBAL INST OBJ REDUCE NEWOBJ NEWOBJ_EX BUILD PERSID BINPERSID
    "c": Machine._op_global,
    "\x93": Machine._op_stack_global,
    "i": Machine._op_inst,
    "o": Machine._op_obj,
    "R": Machine._op_reduce,
    "\x81": Machine._op_reduce,
    "\x92": Machine._op_newobj_ex,
    "b": Machine._op_build,
    "P": Machine._op_persid,
    "Q": Machine._op_binpersid,
} | dict.fromkeys(_REFUSED, Machine._op_refused)
_OPCODES = {ord(code): act for code, act in _TABLE.items()}
