"""A JSON object of long lists read item by item, in little memory: COCO's files hold hundreds of megabytes of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pretrain.runtime.errors import InputError

_CHUNK = 1 << 22  # characters read at a time
_SPACE = " \t\n\r"


@dataclass(frozen=True)
class Item:
    """One item of a list of the file: the list's key, its place there, the item, and the line it starts in."""

    key: str
    place: int
    value: Any
    line: int


def list_items(path: Path, keys: tuple[str, ...]) -> Iterator[Item]:
    """The items of the lists called `keys`, in the order of the file; the rest is passed over.

    Raises:
        InputError: no such file, not UTF-8, or not valid JSON (with the line); no object; a list that is missing, is
            none, or stands twice.
    """
    try:
        with path.open(encoding="utf-8-sig") as stream:
            yield from _Reader(path, stream).items(keys)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise InputError(f"no file at {path}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error}") from None


class _Reader:
    def __init__(self, path: Path, stream: TextIO) -> None:
        self.path, self.stream = path, stream
        self.text, self.at, self.line, self.ended = "", 0, 1, False
        self.decoder = json.JSONDecoder()

    def items(self, keys: tuple[str, ...]) -> Iterator[Item]:
        if self._next() != "{":
            raise InputError(f"{self.path}:1: expected an object with {', '.join(keys[:-1])} and {keys[-1]}")
        self.at += 1
        seen: set[str] = set()
        if self._next() == "}":
            self.at += 1
        else:
            while True:
                if self._next() != '"':
                    raise self._wrong("expecting a key")
                key = self._value()
                self._take(":")
                if key not in keys:
                    self._next()
                    self._value()
                else:
                    if key in seen:
                        raise InputError(f"{self.path}:{self.line}: key '{key}' stands twice")
                    seen.add(key)
                    yield from self._list(key)
                if self._one_of(",}") == "}":
                    break
        for key in keys:
            if key not in seen:
                raise InputError(f"{self.path}:1: key '{key}' is missing or no list")

    def _list(self, key: str) -> Iterator[Item]:
        if self._next() != "[":
            raise InputError(f"{self.path}:1: key '{key}' is missing or no list")
        self.at += 1
        if self._next() == "]":
            self.at += 1
            return
        place = 0
        while True:
            self._next()
            line = self.line
            yield Item(key, place, self._value(), line)
            place += 1
            if self._one_of(",]") == "]":
                return

    def _value(self) -> Any:
        """The value that starts here; more of the file is read until it is whole."""
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except (json.JSONDecodeError, RecursionError) as error:
                if not self.ended:
                    self._more()
                    continue
                if isinstance(error, RecursionError):
                    raise self._wrong("nested too deeply") from None
                line = self.line + self.text.count("\n", self.at, error.pos)
                raise InputError(f"{self.path}:{line}: not valid JSON: {error.msg}") from None
            # A number at the end of what was read may go on.
            if end == len(self.text) and not self.ended:
                self._more()
                continue
            self.line += self.text.count("\n", self.at, end)
            self.at = end
            return value

    def _next(self) -> str:
        """The next character that is no space, not yet taken; "" at the end."""
        while True:
            start = self.at
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            self.line += self.text.count("\n", start, self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self._more()

    def _take(self, sign: str) -> None:
        if self._next() != sign:
            raise self._wrong(f"expecting '{sign}' delimiter")
        self.at += 1

    def _one_of(self, signs: str) -> str:
        found = self._next()
        if not found or found not in signs:
            raise self._wrong(f"expecting '{signs[0]}' delimiter")
        self.at += 1
        return found

    def _more(self) -> None:
        # As much again as an unfinished value already has, so that a long one is not begun anew too often.
        more = self.stream.read(max(_CHUNK, len(self.text) - self.at))
        self.ended = not more
        self.text = self.text[self.at :] + more
        self.at = 0

    def _wrong(self, message: str) -> InputError:
        return InputError(f"{self.path}:{self.line}: not valid JSON: {message}")
