"""What tells variants of a protocol or recipe apart, in words: `lr 0.3, 40 epochs` in place of a hash."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from results.store.columns import PROSE

# Settings of a recipe that keep its books and change no weights: named only where nothing else differs.
_BOOKKEEPING = frozenset({"workers", "save_every_steps", "keep_epochs", "log_every_steps"})
# Numbers of these read better in front: 40 epochs.
_COUNTED = frozenset({"epochs", "steps", "iterations", "samples", "images", "crops", "views"})
_MOST = 3
_LONG = 28


def told_apart(variants: Sequence[str]) -> list[str]:
    """For each variant (its settings as JSON) the settings in which it differs from the others, in words.

    Where many settings differ, those that are enough to tell all variants apart. Variants that differ in nothing but
    prose get the same words.
    """
    flat = [_flat(json.loads(text)) for text in variants]
    keys = dict.fromkeys(key for one in flat for key in one)
    differing = [key for key in keys if len({_canonical(one, key) for one in flat}) > 1]
    plain = [key for key in differing if key.partition(".")[0] not in _BOOKKEEPING]
    shown = _enough(flat, plain or differing)
    last = [key.rpartition(".")[2] for key in shown]
    names = [short if last.count(short) == 1 else key for key, short in zip(shown, last, strict=True)]
    return [
        ", ".join(
            _worded(name, one[key]) if key in one else f"no {name}" for key, name in zip(shown, names, strict=True)
        )
        for one in flat
    ]


def _enough(flat: Sequence[Mapping[str, Any]], differing: list[str]) -> list[str]:
    """All that differ if they are few, else the first ones that tell all variants apart."""
    if len(differing) <= _MOST:
        return differing

    def groups(keys: Sequence[str]) -> int:
        return len({tuple(_canonical(one, key) for key in keys) for one in flat})

    chosen: list[str] = []
    wanted = groups(differing)
    while groups(chosen) < wanted:
        # Of those that tell equally many apart the simplest value reads best: a number before a list.
        rest = [key for key in differing if key not in chosen]
        chosen.append(max(rest, key=lambda key: (groups([*chosen, key]), -_length(flat, key))))
    return [key for key in differing if key in chosen]


def _length(flat: Sequence[Mapping[str, Any]], key: str) -> int:
    return max(len(_canonical(one, key)) for one in flat)


def _canonical(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key], sort_keys=True) if key in settings else ""


def _worded(name: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and name.rpartition(".")[2] in _COUNTED:
        return f"{value} {name if value != 1 else name.removesuffix('s')}"
    return f"{name} {_value(value)}"


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list) and not any(isinstance(item, list | dict) for item in value):
        text = ", ".join(_value(item) for item in value)
        if len(text) > _LONG:
            text = f"{_value(value[0])} … {_value(value[-1])}, {len(value)} values"
        return f"[{text}]"
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return text if len(text) <= _LONG else text[: _LONG - 1] + "…"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if not prefix and key in PROSE:
            continue
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found
