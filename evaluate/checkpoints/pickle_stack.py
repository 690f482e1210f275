"""The machine under the opcodes of a pickle: reading, the stack and the memo, making objects, and the memory budget.

Memory: strings of bytes are windows of the file; everything else is charged to a budget of a few times the file's size,
because one byte of a pickle can ask for an object of two hundred. Work: opcodes are counted.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable
from typing import Any

from evaluate.checkpoints.file_bytes import Readable
from evaluate.checkpoints.inert import Global, Record
from evaluate.checkpoints.limits import INTEGER_BYTES, KEY_PARTS, NAME_CHARACTERS, OPERATIONS
from pretrain.runtime.errors import InputError

# A budget that every honest checkpoint stays far under: their pickles hold names and shapes, not numbers.
FLOOR_BYTES = 64 * 2**20
TIMES_FILE_SIZE = 3


_CHUNK_BYTES = 2**16


class _Mark:
    pass


MARK = _Mark()
_SCALARS = (str, int, float, bool, bytes, type(None), Global, Record)

Call = Callable[[Global, tuple[Any, ...]], Any]


class Stack:
    """What one pickle's run works on: the bytes, the stack, the memo and the memory that is left.

    Args:
        data: the bytes, for instance a window of a file.
        budget_bytes: how much memory the objects may take.
        call: makes an object for a name and arguments, or returns NotImplemented to have it recorded.
        build: gives an object its state, or returns NotImplemented.
        persistent: makes an object for a persistent id; without it such ids are recorded.
    """

    def __init__(
        self,
        data: Readable,
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
        self.operations = 0
        self._chunk, self._chunk_at = b"", 0

    def charge(self, size: int) -> None:
        """Take `size` bytes from the budget."""
        self.left -= size
        if self.left < 0:
            raise InputError(f"the pickle asks for far more memory than its size warrants (byte {self.at})")

    # Reading --------------------------------------------------------------------------------------------------------

    def _opcode(self) -> int:
        self.operations += 1
        if self.operations > OPERATIONS:
            raise InputError(f"the pickle takes more than {OPERATIONS} operations, which no checkpoint needs")
        return self._byte()

    def _byte(self) -> int:
        index = self.at - self._chunk_at
        if not 0 <= index < len(self._chunk):
            self._chunk, self._chunk_at, index = bytes(self.data[self.at : self.at + _CHUNK_BYTES]), self.at, 0
        value = self._chunk[index]
        self.at += 1
        return value

    def _announced(self, count: int) -> slice:
        """Where the next `count` bytes lie; they are passed over."""
        if count < 0 or self.at + count > len(self.data):
            raise InputError(f"the pickle ends early: {count} bytes were announced at byte {self.at}")
        self.at += count
        return slice(self.at - count, self.at)

    def _take(self, count: int) -> bytes:
        where = self._announced(count)
        begin = where.start - self._chunk_at
        if begin >= 0 and begin + count <= len(self._chunk):
            return self._chunk[begin : begin + count]
        return bytes(self.data[where])

    def _skip(self, count: int) -> None:
        self._announced(count)

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self, limit: int | None = None) -> bytes:
        # A chunk at a time: a line has no announced length, and the data may be a whole file.
        start, chunk = self.at, 256
        while True:
            piece = bytes(self.data[start : start + chunk])
            end = piece.find(b"\n")
            if end >= 0:
                self.at = start + end + 1
                return piece[:end]
            if start + chunk >= len(self.data):
                raise InputError(f"the pickle ends early: a line that begins at byte {start} has no end")
            if limit is not None and chunk > limit:
                raise InputError(f"the pickle holds a line of more than {limit} bytes at byte {start}")
            if chunk > self.left:
                raise InputError(f"the pickle asks for far more memory than its size warrants (byte {self.at})")
            chunk *= 2

    def _digits(self) -> bytes:
        """A number's line."""
        return self._line(4 * INTEGER_BYTES)

    # The stack ------------------------------------------------------------------------------------------------------

    def _push(self, value: Any, cost: int = 0) -> None:
        self.charge(8 + cost)
        self.stack.append(value)

    def _pop(self) -> Any:
        value = self.stack.pop()
        if value is MARK:
            raise ValueError("a mark stands where a value was expected")
        return value

    def _pop_mark(self) -> list[Any]:
        at = len(self.stack) - 1
        while self.stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise IndexError("no mark")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def _text(self, count: int) -> None:
        self.charge(count)  # twice in memory for a moment
        text = str(self._take(count), "utf-8", "surrogatepass")
        self.left += count
        self._push(text, sys.getsizeof(text) + 16)  # one to four bytes a character, and what the allocator rounds up

    def _bytes(self, count: int) -> None:
        # Long ones are a tensor's numbers: a window of the file, no copy.
        if count > 4096:
            self._push(self.data[self._announced(count)], 200)
        else:
            self._push(self._take(count), 40 + count)

    def _latin(self, count: int) -> None:
        # Python 2's str is text for names and bytes for an array's numbers; no name is this long.
        if count > 4096:
            self._push(self.data[self._announced(count)], 200)
        else:
            self._push(str(self._take(count), "latin-1"), 56 + count)

    def _keep(self, index: int) -> None:
        self.charge(120)
        self.memo[index] = self.stack[-1]

    # Objects --------------------------------------------------------------------------------------------------------

    def _global(self, module: str, name: str) -> None:
        if len(module) + len(name) > NAME_CHARACTERS:
            raise InputError(f"the pickle names something by {len(module) + len(name)} characters")
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
        target[hashable(key)] = value

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
            target.update(hashable(value) for value in values)
        else:
            raise TypeError("an item added to what is no set")
        self.charge(80 * len(values))


def hashable(key: Any) -> Any:
    """The key itself, if hashing it is cheap. Raises TypeError if not."""
    # Nested tuples are refused: the hash of a tuple that holds another twice, thirty levels deep, never returns.
    if isinstance(key, tuple):
        if len(key) > KEY_PARTS or not all(isinstance(part, _SCALARS) for part in key):
            raise TypeError("a key of many parts or nested tuples")
    elif not isinstance(key, _SCALARS):
        raise TypeError("a key that is no scalar")
    return key
