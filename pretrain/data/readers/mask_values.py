"""What the values of mask files stand for: classes in rising order, or as the catalog's `values` says.

`values` lists what stands for each class in the order of `classes` (numbers such as 0 and 255, or colours), or maps
each value to a class (several may be one class, null means "does not count"), or names a file with such a table. A
value that is neither listed nor `ignore` is refused by name: no pixel is counted on a guess.

Shapes: H W size, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from pretrain.data.entries import MasksEntry
from pretrain.data.places import Places
from pretrain.runtime.errors import InputError, unknown

IGNORE = 255
# Single-channel modes of Pillow in which a pixel is an index (P is an index into the file's colour table).
_INDEX_MODES = ("L", "P", "1", "I", "I;16", "I;16B")
_MODES = {"index": _INDEX_MODES, "colour": ("RGB", "RGBA", "P", "L", "1")}
_NOT_COUNTED = ("ignore", "ignored", "void", "unlabeled", "unlabelled")
_BEYOND = -1  # in a table: a value that stands for nothing

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class MaskValues:
    """Which label each value (or colour) of a mask file stands for.

    Attributes:
        name: of the data set, for messages.
        classes: K names.
        labels: value -> 0..K-1 or `IGNORE`; a colour counts as R * 65536 + G * 256 + B.
        colours: whether the files hold colours.
        given: whether the catalog says so; otherwise the classes are the values in rising order.
    """

    name: str
    classes: tuple[str, ...]
    labels: Mapping[int, int]
    colours: bool = False
    given: bool = False

    def read(self, path: Path) -> np.ndarray:
        """(H, W) uint8: labels 0..K-1, `IGNORE` elsewhere.

        Raises:
            InputError: a file that cannot be read, of the wrong kind, or with a value that stands for nothing.
        """
        kind = "colour" if self.colours else "index"
        try:
            with Image.open(path) as image:
                if image.mode not in _MODES[kind]:
                    raise InputError(
                        f"mask {path} has mode {image.mode}, expected "
                        + (
                            "colours (mode RGB or P)"
                            if self.colours
                            else "one channel of class indices (mode L or P); of masks in colours the catalog's "
                            "'values' must say which colour is which class"
                        )
                    )
                values = _packed(image) if self.colours else np.asarray(image)
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"mask {path} cannot be read: {error}") from None
        labels = self._looked_up(values)
        if (labels == _BEYOND).any():
            raise self._unexplained(path, values[labels == _BEYOND])
        return labels.astype(np.uint8)

    def of_class(self, label: int) -> str:
        """The values that stand for a class, in words."""
        return " or ".join(self._word(value) for value, meant in self.labels.items() if meant == label)

    def _looked_up(self, values: np.ndarray) -> np.ndarray:
        keys, labels = self._table
        if values.dtype in (np.uint8, np.bool_):
            return self._of_bytes[values.astype(np.uint8)]
        values = values.astype(np.int64)
        place = np.searchsorted(keys, values).clip(max=len(keys) - 1)
        return np.where(keys[place] == values, labels[place], _BEYOND)

    @cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        pairs = np.array(sorted(self.labels.items()), dtype=np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1].astype(np.int16)

    @cached_property
    def _of_bytes(self) -> np.ndarray:
        table = np.full(256, _BEYOND, dtype=np.int16)
        keys, labels = self._table
        table[keys[keys < 256]] = labels[keys < 256]
        return table

    def _unexplained(self, path: Path, values: np.ndarray) -> InputError:
        found, counts = np.unique(values, return_counts=True)
        first, count = self._word(int(found[0])), int(counts[0])
        more = f" (and {len(found) - 1} other values)" if len(found) > 1 else ""
        pixels = f"{count} pixel{'s' if count > 1 else ''}"
        if self.given:
            known = ", ".join(self._word(value) for value in list(self.labels)[:12])
            return InputError(
                f"mask {path} holds {first}{more}, which `values` of '{self.name}' does not explain ({pixels}); it "
                f"explains {known}{' ...' if len(self.labels) > 12 else ''}"
            )
        ignored = next(value for value, label in self.labels.items() if label == IGNORE)
        return InputError(
            f"mask {path} holds label {first}{more}, which is beyond the {len(self.classes)} classes of "
            f"'{self.name}' and is not its ignore value {ignored} ({pixels}); if it is a class, let `values` say so"
        )

    def _word(self, value: int) -> str:
        return f"#{value:06x}" if self.colours else str(value)


def mask_values(places: Places, name: str, entry: MasksEntry) -> MaskValues:
    """What an entry says of its files' values. Raises InputError: a class without a value, or a value given twice."""
    if entry.values is None:
        if not isinstance(entry.ignore, int):
            raise InputError(f"data set '{name}': ignore is the colour {entry.ignore}, but no `values` gives colours")
        return in_rising_order(name, entry.classes, entry.ignore)
    given: Any = entry.values
    if isinstance(given, str):
        given = _table_of(places.resolve(given), name)
    pairs = list(given.items()) if isinstance(given, Mapping) else _in_order(name, given, entry.classes)
    keys = [_key(name, value) for value, _ in pairs]
    if len({colour for _, colour in keys}) > 1:
        raise InputError(f"data set '{name}': `values` mixes numbers and colours")
    labels: dict[int, int] = {}
    for (key, _), (value, meant) in zip(keys, pairs, strict=True):
        if key in labels:
            raise InputError(f"data set '{name}': `values` holds {value} twice")
        labels[key] = _label(name, meant, entry.classes)
    without = [one for label, one in enumerate(entry.classes) if label not in labels.values()]
    if without:
        raise InputError(f"data set '{name}': `values` gives no value for class '{without[0]}'")
    colours = keys[0][1]
    ignored, is_colour = _key(name, entry.ignore)
    if is_colour == colours:
        labels.setdefault(ignored, IGNORE)
    return MaskValues(name, entry.classes, labels, colours, given=True)


def in_rising_order(name: str, classes: tuple[str, ...], ignore: int) -> MaskValues:
    """0, 1, 2 ... without `ignore`: with `ignore: 0` and 150 classes (ADE20K) 1..150 are 0..149."""
    values = [value for value in range(len(classes) + 1) if value != ignore][: len(classes)]
    return MaskValues(name, classes, {**{value: label for label, value in enumerate(values)}, ignore: IGNORE})


def _packed(image: Image.Image) -> np.ndarray:
    colours = np.asarray(image.convert("RGB")).astype(np.int64)
    return colours[..., 0] << 16 | colours[..., 1] << 8 | colours[..., 2]


def _in_order(name: str, given: Iterable[Any], classes: tuple[str, ...]) -> list[tuple[Any, Any]]:
    listed = list(given)
    if len(listed) != len(classes):
        raise InputError(f"data set '{name}' has {len(classes)} classes but {len(listed)} `values`")
    return list(zip(listed, range(len(classes)), strict=True))


def _key(name: str, value: Any) -> tuple[int, bool]:
    """A value of a file as a number, and whether it is a colour: 255, [128, 64, 128], "#804080" or "128 64 128"."""
    if isinstance(value, int) and 0 <= value < 1 << 16:
        return value, False
    parts: list[int] = []
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
            return int(text[1:], 16), True
        if re.fullmatch(r"\d+(?:[\s,]+\d+)*", text):
            parts = [int(part) for part in re.split(r"[\s,]+", text)]
    elif isinstance(value, list | tuple):
        parts = list(value)
    if len(parts) == 1 and parts[0] < 1 << 16:
        return parts[0], False
    if len(parts) == 3 and all(0 <= part <= 255 for part in parts):
        red, green, blue = parts
        return red << 16 | green << 8 | blue, True
    raise InputError(
        f"data set '{name}': {value!r} is no value of a mask; expected a number from 0 to 65535, or a colour as "
        "[R, G, B] or '#rrggbb'"
    )


def _label(name: str, meant: Any, classes: tuple[str, ...]) -> int:
    if meant is None:
        return IGNORE
    if isinstance(meant, int) and 0 <= meant < len(classes):
        return meant
    if meant in classes:
        return classes.index(meant)
    if isinstance(meant, str) and meant.lower() in _NOT_COUNTED:
        return IGNORE
    raise unknown(f"class in `values` of data set '{name}'", str(meant), classes)


def _table_of(path: Path, name: str) -> dict[Any, str]:
    """A text file with a line for each value: its number or R, G, B, and the name of its class, in either order."""
    table = f"data set '{name}': the table of `values` at {path}"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{table} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InputError(f"{table} is not UTF-8") from None
    found: dict[Any, str] = {}
    for number, line in enumerate(lines, start=1):
        parts = [part.strip() for part in re.split(r"[,;\t]" if re.search(r"[,;\t]", line) else r"\s+", line.strip())]
        parts = [inner for part in parts for inner in (part.split() if re.fullmatch(r"[\d\s]+", part) else [part])]
        numbers = [int(part) for part in parts if part.isdigit()]
        words = " ".join(part for part in parts if part and not part.isdigit())
        if not numbers:  # a headline, or an empty line
            continue
        if len(numbers) not in (1, 3) or not words:
            raise InputError(
                f"{path}:{number}: expected a class and its number or its R, G and B, got '{line.strip()}'"
            )
        value = numbers[0] if len(numbers) == 1 else tuple(numbers)
        if value in found:
            raise InputError(f"{path}:{number}: the value {value} stands twice")
        found[value] = words
    if not found:
        raise InputError(f"{table} holds no line with a value and a class")
    return found
