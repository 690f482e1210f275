"""Reads pickles without running them: a machine for pickle opcodes that can call nothing of the file's choice.

Python's own unpickler imports what the file names and calls it. This machine never imports: a name becomes a `Global`,
a call becomes a `Record` of what would have been called, and the few calls that plain containers and tensors need
(`evaluate.checkpoints.rebuild`) are looked up in a table by name. The opcodes are those of the pickle protocols 0 to 5
(CPython's `pickletools`).
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Any

from evaluate.checkpoints.inert import Global, Record
from evaluate.checkpoints.limits import INTEGER_BYTES, NAME_CHARACTERS
from evaluate.checkpoints.pickle_stack import MARK, Stack, hashable
from pretrain.runtime.errors import InputError

# A name's line is read whole before it is judged.
NAME_LINE = 4 * NAME_CHARACTERS


class Machine(Stack):
    """One pickle's run."""

    def run(self) -> Any:
        """The pickle's object; `self.at` is then the byte after it.

        Raises:
            InputError: a pickle that is damaged, asks for more memory than its size warrants, or uses an opcode that
                no checkpoint needs.
        """
        try:
            while True:
                opcode = self._opcode()
                if opcode == _STOP:
                    return self._pop()
                _OPCODES[opcode](self)
        except InputError:
            raise
        except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
            raise InputError(f"the pickle is damaged near byte {self.at} ({type(error).__name__})") from None

    # Opcodes: pickletools' names -------------------------------------------------------------------------------------

    def _op_pop(self) -> None:
        self.stack.pop()

    def _op_pop_mark(self) -> None:
        self._pop_mark()

    def _op_int(self) -> None:
        line = self._digits()
        self._push(line == b"01" if line in (b"00", b"01") else int(line), 32)

    def _op_long1(self) -> None:
        self._long(self._byte())

    def _op_long4(self) -> None:
        self._long(self._number("<i"))

    def _long(self, count: int) -> None:
        if count > INTEGER_BYTES:
            raise InputError(f"the pickle holds a number of {count} bytes, which no checkpoint needs")
        self._push(int.from_bytes(self._take(count), "little", signed=True), 32 + count)

    def _op_string(self) -> None:
        line = self._line().strip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise ValueError("a string without quotes")
        self._push(line[1:-1].decode("unicode_escape"), 56 + 4 * len(line))

    def _op_unicode(self) -> None:
        text = str(self._line(), "raw-unicode-escape")
        self._push(text, sys.getsizeof(text))

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
        made = {hashable(value) for value in self._pop_mark()}
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
        self._keep(int(self._digits()))

    def _op_get(self) -> None:
        self._push(self.memo[int(self._digits())])

    def _op_global(self) -> None:
        module, name = self._line(NAME_LINE), self._line(NAME_LINE)
        self._global(module.decode(), name.decode())

    def _op_stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("a name that is no text")
        self._global(module, name)

    def _op_inst(self) -> None:
        self._op_global()
        what = self._pop()
        self._reduce(what, tuple(self._pop_mark()))

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
        self._persistent(self._line(NAME_LINE).decode())

    def _op_binpersid(self) -> None:
        self._persistent(self._pop())

    def _persistent(self, identity: Any) -> None:
        made = self.persistent(identity) if self.persistent else Record(Global("pickle", "persistent id"), (identity,))
        self._push(made, 300)

    def _op_refused(self) -> None:
        raise InputError(
            f"the pickle uses opcode {self._chunk[self.at - 1 - self._chunk_at]:#04x}, which no checkpoint needs"
        )


_STOP = ord(".")
_REFUSED = ("\x82", "\x83", "\x84", "\x97", "\x98")  # EXT1 EXT2 EXT4, NEXT_BUFFER, READONLY_BUFFER
_TABLE: dict[str, Callable[[Machine], None]] = {
    # the machine itself: PROTO FRAME MARK POP POP_MARK DUP
    "\x80": lambda m: m._skip(1),
    "\x95": lambda m: m._skip(8),
    "(": lambda m: m._push(MARK),
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
    "L": lambda m: m._push(int(m._digits().rstrip(b"L")), 64),
    "\x8a": Machine._op_long1,
    "\x8b": Machine._op_long4,
    "F": lambda m: m._push(float(m._digits()), 24),
    "G": lambda m: m._push(m._number(">d"), 24),
    # text and bytes: STRING BINSTRING SHORT_BINSTRING UNICODE SHORT_BINUNICODE BINUNICODE BINUNICODE8
    # SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8
    "S": Machine._op_string,
    "T": lambda m: m._latin(m._number("<i")),
    "U": lambda m: m._latin(m._byte()),
    "V": Machine._op_unicode,
    "\x8c": lambda m: m._text(m._byte()),
    "X": lambda m: m._text(m._number("<I")),
    "\x8d": lambda m: m._text(m._number("<Q")),
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
