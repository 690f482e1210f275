"""Frozen, validated settings: recipes, protocols, catalog and spec are all made of these, and fail in one sentence.

A file's settings are checked with the line where each key stands, so that the sentence can say where to look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from pretrain.runtime.errors import InputError, unknown
from pretrain.runtime.yaml_files import Path_, load_yaml, yaml_value

__all__ = ["Later", "Path_", "Seed", "Settings", "describe", "load_yaml", "parse_sets", "validate", "yaml_value"]

# What torch, NumPy and scikit-learn all take as a seed.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Later:
    """Marks a field that was added when runs were there already: `Annotated[bool, Later(before=False)] = False`.

    Attributes:
        before: the value that says what was done before the field was there. With it the field is left out of run ids
            and data identities, so that what is measured stays measured; with any other value it is part of them.
    """

    before: Any


class Settings(BaseModel):
    """Base of every settings model: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def override(self, changes: Mapping[str, Any]) -> Self:
        """A copy with some fields changed; keys may be dotted (`optimizer.momentum`), strings are read as YAML.

        Raises:
            InputError: a key that does not exist (with those that do) or a value the field does not take.
        """
        values = self.model_dump()
        for key, value in changes.items():
            *parents, last = key.split(".")
            place: Any = values
            for parent in parents:
                place = place.get(parent) if isinstance(place, dict) else None
            if not isinstance(place, dict) or last not in place:
                raise unknown(f"field of {type(self).__name__}", key, _leaves(values))
            place[last] = yaml_value(value, f"{key}={value}") if isinstance(value, str) else value
        try:
            return type(self).model_validate(values)
        except ValidationError as error:
            raise InputError(f"{type(self).__name__}: {describe(error.errors()[0])}") from None

    @classmethod
    def identity_of(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Dumped values without the fields that were added later and say what was done before they were there."""
        kept = {}
        for key, value in values.items():
            field = cls.model_fields.get(key)
            if field is not None:
                if any(isinstance(mark, Later) and mark.before == value for mark in field.metadata):
                    continue
                if isinstance(value, dict) and (inner := _settings_in(field.annotation, value)):
                    value = inner.identity_of(value)
            kept[key] = value
        return kept

    def differences(self, other: BaseModel) -> dict[str, tuple[Any, Any]]:
        """Dotted field -> (here, there) for every field whose values differ; None where one side lacks it."""
        here, there = _flat(self.model_dump(mode="json")), _flat(other.model_dump(mode="json"))
        keys = [*here, *(key for key in there if key not in here)]
        return {key: (here.get(key), there.get(key)) for key in keys if here.get(key) != there.get(key)}


def parse_sets(pairs: list[str]) -> dict[str, str]:
    """`["lr=0.1", "optimizer.momentum=0.9"]` -> a mapping for `Settings.override`. Raises InputError without a `=`."""
    changes = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise InputError(f"--set {pair!r}: expected KEY=VALUE, for instance --set epochs=20")
        changes[key.strip()] = value.strip()
    return changes


def validate(model: type[M], value: Any, *, path: Path, lines: dict[Path_, int]) -> M:
    """`value` as a `model`, or an InputError that names file, line and key. The first mistake is the one told."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}:{_line_of(first, lines)}: {describe(first)}") from None


def describe(error: ErrorDetails) -> str:
    """One of pydantic's error records as a sentence: which key, what was given, what was expected."""
    loc = [part for part in error["loc"] if part != "[key]"]
    where = ".".join(str(part) for part in loc) or "value"
    kind, given = error["type"], _short(error["input"])
    if "[key]" in error["loc"]:
        return f"the name {given} in {where.rpartition('.')[0] or 'the file'}: {_expected(error)}"
    if kind == "extra_forbidden":
        return f"unknown key '{where}'"
    if kind == "missing":
        return f"key '{where}' is missing"
    if kind == "value_error":
        return f"{where}: {error['msg'].removeprefix('Value error, ')}"
    return f"{where} is {given}, {_expected(error)}"


_KINDS = {
    "tuple": "a list",
    "list": "a list",
    "set": "a list",
    "dict": "a mapping",
    "model": "a mapping",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
}
_BOUNDS = {"greater_than_equal": "at least", "greater_than": "more than", "less_than_equal": "at most"}
_BOUNDS |= {"less_than": "less than", "too_short": "at least", "too_long": "at most"}
_BOUNDS |= {"string_too_short": "at least", "string_too_long": "at most"}


def _expected(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _BOUNDS:
        limit = next(context[key] for key in ("ge", "gt", "le", "lt", "min_length", "max_length") if key in context)
        unit = " items" if kind in ("too_short", "too_long") else " characters" if kind.startswith("string") else ""
        number = f"{limit:g}" if isinstance(limit, float) else str(limit)
        return f"expected {_BOUNDS[kind]} {number}{unit if limit != 1 else unit.rstrip('s')}"
    if kind == "literal_error":
        return f"expected {context['expected']}"
    if kind == "int_from_float":
        return "expected a whole number"
    if kind == "finite_number":
        return "expected a finite number"
    if kind == "none_required":
        return "expected nothing (null)"
    noun = _KINDS.get(kind.partition("_")[0])
    return f"expected {noun}" if noun else error["msg"][:1].lower() + error["msg"][1:]


def _short(value: Any, limit: int = 200) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _settings_in(annotation: Any, value: Mapping[str, Any]) -> type[Settings] | None:
    """The settings model of an annotation (in a union the one that has the value's keys), None where there is none."""
    if isinstance(annotation, type):
        return annotation if issubclass(annotation, Settings) and set(value) <= set(annotation.model_fields) else None
    found = (_settings_in(part, value) for part in get_args(annotation))
    return next((model for model in found if model is not None), None)


def _leaves(values: Any, prefix: str = "") -> list[str]:
    return list(_flat(values, prefix))


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(values, dict) and values:
        flat: dict[str, Any] = {}
        for key, value in values.items():
            flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: values}


def _line_of(error: ErrorDetails, lines: dict[Path_, int]) -> int:
    # pydantic's location can hold names of union members, which no file knows: take the longest part that is there.
    best = 1
    at: Path_ = ()
    for part in error["loc"]:
        if (*at, part) in lines:
            at = (*at, part)
            best = lines[at]
    return best
