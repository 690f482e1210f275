"""How a family names a model: the timm model that is nearest, and the arguments in which this one differs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from evaluate.checkpoints.architectures import Match, Shape
from pretrain.backbones.names import spell_name

# What a family's class takes where a model of it says nothing.
Defaults = Mapping[str, Any]


def named(text: str, wanted: Mapping[str, Any], bases: Mapping[str, Defaults], defaults: Defaults) -> Match:
    """The model with the arguments `wanted`, called by the base that needs the fewest of them said.

    Args:
        bases: timm model -> the arguments in which it differs from the class's `defaults`.
    """

    def differing(base: Defaults) -> dict[str, Any]:
        whole = {**defaults, **base}
        return {key: value for key, value in wanted.items() if not _same(whole.get(key), value)}

    # Only a base that leaves nothing unsaid will do: what it sets and `wanted` lacks would be kept.
    fitting = {name: differing(base) for name, base in bases.items() if set(base) <= set(wanted)}
    name = min(fitting, key=lambda each: (len(fitting[each]), "embed_dim" in fitting[each]))
    return Match(spell_name(name, fitting[name]), text)


def _same(one: Any, other: Any) -> bool:
    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple | list) else value

    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-9 * max(abs(one), abs(other))
    one, other = plain(one), plain(other)
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def count(names: Iterable[str], pattern: str) -> int:
    """How many of something there are: one more than the highest number in group 1 of `pattern` at a name's start."""
    numbers = [int(found[1]) for name in names if (found := re.match(pattern, name))]
    return max(numbers, default=-1) + 1


def ratio(hidden: int, width: int) -> float:
    """A factor with which timm's int(width * factor) is `hidden`."""
    for extra in (0.0, 0.25, 0.5):
        factor = float(f"{(hidden + extra) / width:.12g}")
        if int(width * factor) == hidden:
            return factor
    return (hidden + 0.5) / width


def shape_of(shapes: Mapping[str, Shape], name: str, dimensions: int) -> Shape | None:
    """The shape, where the tensor is there, has so many dimensions and is not empty."""
    shape = shapes.get(name, ())
    return shape if len(shape) == dimensions and all(shape) else None


# timm's defaults of facts that no shape shows: what a spelling's code does unless something says otherwise.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "quick_gelu": "quick_gelu",
    "quickgelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def activation(told: Mapping[str, Any], default: str | None = "gelu") -> str | None:
    """The activation in timm's words; None for one that it is not known to have."""
    said = told.get("act_layer", default)
    return ACTIVATIONS.get(said) if isinstance(said, str) else None
