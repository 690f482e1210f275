"""Definitions of tables, in YAML: which rows, which columns, what was published and what was measured for each cell.

A definition is one of the package's (`results/definitions/`, named by its path there: `paper/linear`) or a file of the
user's own. Every filter is a mapping from a column to a value or a list of values.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from pretrain.runtime.errors import InputError, unknown
from pretrain.runtime.settings import Settings, load_yaml, validate
from results.store.columns import COLUMNS
from results.store.published import PUBLISHED_COLUMNS

FOLDER = Path(str(resources.files("results"))) / "definitions"
Scalar = str | int | float | bool | None
Filter = dict[str, Scalar | list[Scalar]]
Selection = Literal["last", "held_out", "best"]


def _known(kind: str, names: Mapping[str, str], virtual: tuple[str, ...], given: Filter | None) -> Filter | None:
    for key in given or {}:
        if key not in names and not key.startswith(virtual):
            raise unknown(kind, key, names)
    return given


class _Filtered(Settings):
    published: Filter | None = None
    measured: Filter | None = None

    @field_validator("published")
    @classmethod
    def _published(cls, given: Filter | None) -> Filter | None:
        return _known("column of published.csv", PUBLISHED_COLUMNS, (), given)

    @field_validator("measured")
    @classmethod
    def _measured(cls, given: Filter | None) -> Filter | None:
        return _known("column of the store", COLUMNS, ("protocol.", "recipe."), given)


class Quantity(Settings):
    """A number of the run itself in place of a metric: a column of the store divided by `divide_by`."""

    column: Literal["wall_s", "peak_mem_bytes", "epoch"]
    divide_by: float = 1.0


class ColumnDefinition(_Filtered):
    """One column.

    Attributes:
        label: its heading; a line break starts a new line.
        published, measured: filters added to the table's own.
        protocol: names of protocols that count as on-protocol here (any, when left out).
        require: values of the protocol that an on-protocol run must have, by dotted key.
        tuned: settings of the protocol, by dotted key, that were chosen for each row on held-out images: rows that
            differ in these alone are compared, and the table says so. The runs of one cell must still agree in them.
        selection: "last", "held_out" or "best"; left out, the first of these that any run has.
        quantity: in place of a metric.
        unit, digits, higher_is_better: of the numbers; left out, the metric's and the table's.
    """

    label: str
    protocol: list[str] | None = None
    require: Filter | None = None
    tuned: list[str] = []
    selection: Selection | None = None
    quantity: Quantity | None = None
    unit: str | None = None
    digits: int | None = None
    higher_is_better: bool | None = None


class RowDefinition(_Filtered):
    """One row. Without `measured` nothing of ours belongs into it, without `published` nothing of others."""

    label: str


class Definition(_Filtered):
    """A table.

    Attributes:
        title: one line.
        caption: what a reader must know, shown under it.
        published, measured: filters that hold for the whole table.
        columns: the columns, or "auto": one for each task, data set, protocol, main metric and selection that is there.
        rows: rows in this order.
        checkpoints: then a row for each checkpoint that none of them holds.
        protocol, require: see the columns; here for all of them.
        digits: after the point.
        test: whether the best are told apart by a test.
    """

    title: str
    caption: str = ""
    columns: list[ColumnDefinition] | Literal["auto"]
    rows: list[RowDefinition] = []
    checkpoints: bool = False
    protocol: list[str] | None = None
    require: Filter | None = None
    digits: int = 1
    test: bool = True


def definitions() -> list[str]:
    """Names of the package's tables."""
    return sorted(str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.yaml"))


def load_definition(name_or_path: str) -> Definition:
    """The definition of that name, or in that file.

    Raises:
        InputError: no such table (with those that exist), or what is wrong in which line of the file.
    """
    if name_or_path in definitions():
        path = FOLDER / f"{name_or_path}.yaml"
    else:
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            raise unknown("table", name_or_path, definitions())
        if not path.is_file():
            raise InputError(f"no table definition at {path}; the package's own: {', '.join(definitions())}")
    value: Any
    value, lines = load_yaml(path)
    return validate(Definition, value, path=path, lines=lines)
