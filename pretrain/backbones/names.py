"""What a timm backbone is called, with all that its model is built with: `timm:vit_small_patch16_224,num_heads=12`.

The name alone says which function the weights are put into: it stands in rows, in features' cache keys and in the
header of backbone files. Reading it needs no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pretrain.runtime.errors import InputError

TIMM = "timm:"
_WORDS: dict[str, Any] = {"true": True, "false": False, "none": None}


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """`timm:MODEL,key=value,...` -> (MODEL, arguments): numbers, true, false, none, words, and lists in brackets.

    Raises:
        InputError: an argument that is not `key=value`, or one given twice.
    """
    model, *parts = _at_commas(name.removeprefix(TIMM))
    return model, arguments_of(",".join(parts), name)


def arguments_of(text: str, where: str) -> dict[str, Any]:
    """`key=value,...` -> the arguments. `where` names the whole for the messages; raises InputError as `split_name`."""
    arguments: dict[str, Any] = {}
    for part in _at_commas(text):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not re.fullmatch(r"[a-z_][a-z0-9_]*", key) or not value.strip():
            raise InputError(f"'{where}' holds '{part}'; expected key=value, as in num_heads=12")
        if key in arguments:
            raise InputError(f"'{where}' gives {key} twice")
        arguments[key] = _value(value.strip())
    return arguments


def spell_name(model: str, arguments: Mapping[str, Any]) -> str:
    """The name of a timm model with arguments, in the one order and spelling that equal models share."""
    return ",".join([TIMM + model, *(f"{key}={_spelt(value)}" for key, value in sorted(arguments.items()))])


def _at_commas(text: str) -> list[str]:
    """The parts between commas that stand in no brackets."""
    parts = re.split(r",(?![^\[]*\])", text)
    return [part for part in parts if part.strip()] or [text] if text else []


def _value(text: str) -> Any:
    if text.startswith("[") and text.endswith("]"):
        return [_value(part.strip()) for part in text[1:-1].split(",") if part.strip()]
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _spelt(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(_spelt(each) for each in value)}]"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return f"{value:.12g}" if isinstance(value, float) else str(value)
