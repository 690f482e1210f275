"""Rows as plain records, found by the values of their fields: what the cells of a table are made from.

A table asks for the rows of each of its cells. A frame would be searched from end to end for each; here each field that
is asked for is indexed once.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pretrain.runtime.files import canonical_hash
from results.store.columns import PROSE

Row = dict[str, Any]
Filter = Mapping[str, Any]

# A run without a result has no metric yet: it belongs wherever its metrics would.
_OF_THE_METRIC = frozenset({"metric", "selection", "rank", "data_identity"})


def records(frame: pd.DataFrame) -> list[Row]:
    """The rows of a frame as dicts of Python values, None where a field is empty."""
    columns = {name: frame[name].astype(object).where(frame[name].notna(), None).tolist() for name in frame.columns}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


class Lookup:
    """Records, each field indexed when first asked for; `protocol.KEY` and `recipe.KEY` look into settings."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows
        self._indices: dict[str, dict[Any, set[int]]] = {}

    def positions(self, wanted: Filter) -> set[int]:
        """Where the records stand that hold the wanted values (a list: any of them; None: the field is empty)."""
        found: set[int] | None = None
        for key, value in wanted.items():
            here: set[int] = set()
            for option in value if isinstance(value, list) else [value]:
                here |= self._index(key).get(option, set())
            if key in _OF_THE_METRIC:
                here |= self._index("metric").get(None, set())
            found = here if found is None else found & here
        return set(range(len(self.rows))) if found is None else found

    def find(self, wanted: Filter) -> list[Row]:
        """The records that hold the wanted values, in their order."""
        return [self.rows[position] for position in sorted(self.positions(wanted))]

    def within(self, wanted: Filter) -> Lookup:
        """The records that hold the wanted values, as a lookup of their own."""
        return Lookup(self.find(wanted))

    def _index(self, key: str) -> dict[Any, set[int]]:
        if key not in self._indices:
            index: dict[Any, set[int]] = {}
            for position, row in enumerate(self.rows):
                value = _value(row, key)
                if not isinstance(value, dict | list):
                    index.setdefault(value, set()).add(position)
            self._indices[key] = index
        return self._indices[key]


def _value(row: Row, key: str) -> Any:
    if "." not in key:
        return row[key]
    table, _, path = key.partition(".")
    text = row[f"{table}_values"]
    return _at(_parsed(text) if isinstance(text, str) else None, path.split("."))


def _at(place: Any, path: Sequence[str]) -> Any:
    """What lies at a path of keys inside nested mappings; None where nothing does."""
    for part in path:
        place = place.get(part) if isinstance(place, Mapping) else None
    return place


def settings_without(row: Row, keys: Sequence[str]) -> str:
    """A hash of the protocol's settings but for those of dotted `keys` and for its prose."""
    values = copy.deepcopy(_parsed(row["protocol_values"] or "{}"))
    for key in [*keys, *PROSE]:
        *path, last = key.split(".")
        holder = _at(values, path)
        if isinstance(holder, dict):
            holder.pop(last, None)
    return canonical_hash(values)[:8]


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    return json.loads(text)
