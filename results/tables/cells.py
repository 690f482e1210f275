"""From a definition and a store to a table: which runs and which published numbers stand in which cell."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from pretrain.runtime.errors import InputError, unknown
from results.store import published as published_numbers
from results.store.lookup import Lookup, Row, records
from results.store.store import Store
from results.tables.contest import embolden, set_against
from results.tables.definition import ColumnDefinition, Definition, Filter, RowDefinition
from results.tables.found import auto_columns, checkpoint_rows, frame_of
from results.tables.measuring import Evidence, measure
from results.tables.table import Cell, Column, Mark, Published, Table

_ORDER = ("last", "held_out", "best")
# What a cell is not made from, unless a definition names it: it would only be carried along.
_RARELY_NEEDED = [
    "campaign",
    "packages",
    "command",
    "code_version",
    "world_size",
    "device",
    "host",
    "started",
    "checkpoint_detail",
]


def build(
    name: str,
    definition: Definition,
    store: Store,
    *,
    against: str | None = None,
    stale: Mapping[str, str] | None = None,
) -> Table:
    """The table of a definition over a store.

    `against`: a row's label, to which every other number is set as a difference. `stale`: run id -> why today's code
    would not do that run as it was done.

    Raises:
        InputError: the definition leaves open which of several published numbers is meant; or no row `against`.
    """
    named = _named(definition)
    everything = frame_of(store).drop(columns=[name for name in _RARELY_NEEDED if name not in named])
    found = Lookup(records(everything)).positions(definition.measured or {})
    frame = everything.loc[sorted(found)].reset_index(drop=True)
    lookup = Lookup(records(frame))
    columns = auto_columns(frame) if definition.columns == "auto" else definition.columns
    assert not isinstance(columns, str)
    rows = list(definition.rows)
    if definition.checkpoints:
        rows += checkpoint_rows(frame, lookup, rows, columns)
    labels = [row.label for row in rows]
    if against is not None and against not in labels:
        raise unknown("row of the table", against, labels)
    sources: dict[str, int] = {}
    heads: list[Column] = []
    cells: list[list[Cell]] = [[] for _ in rows]
    notes = _Notes()
    for column in columns:
        inside = lookup.within(column.measured or {})
        head = _head(definition, column, inside.rows)
        heads.append(head)
        selection = column.selection or _selection(inside.rows)
        contestants: list[tuple[Cell, Evidence]] = []
        reference = None
        for row, line in zip(rows, cells, strict=True):
            cell, evidence = _cell(definition, row, column, inside, selection)
            cell.published = _published(definition, row, column, sources)
            if evidence and not set(cell.marks) & {"best", "held_out", "off_protocol"}:
                reference = len(contestants) if row.label == against else reference
                contestants.append((cell, evidence))
            _mark_stale(cell, stale or {})
            notes.whys += [(row.label, head.name, why) for why in cell.why]
            line.append(cell)
        if not definition.test or column.quantity is not None:
            continue
        if against is None:
            notes.tell(head, embolden(head, contestants, column.tuned))
        elif reference is not None:
            notes.tell(head, set_against(against, contestants, reference, column.tuned))
    return Table(
        name=name,
        title=definition.title if against is None else f"{definition.title}, against {against}",
        caption=definition.caption,
        rows=labels,
        columns=heads,
        cells=cells,
        notes=notes.lines(),
        sources=list(sources),
        against=against,
    )


class _Notes:
    """What is said below a table, each thing once: with the columns, or the cells, of which it holds."""

    def __init__(self) -> None:
        self.told: dict[str, list[str]] = {}
        self.whys: list[tuple[str, str, str]] = []

    def tell(self, head: Column, sentence: str | None) -> None:
        if sentence:
            self.told.setdefault(sentence, []).append(head.name)

    def lines(self) -> list[str]:
        if len(self.told) == 1 and len(next(iter(self.told.values()))) > 1:
            lines = [f"Each column: {how}" for how in self.told]
        else:
            lines = [f"{'; '.join(names)}: {how}" for how, names in self.told.items()]
        places: dict[str, list[tuple[str, str]]] = {}
        for row, column, why in self.whys:
            places.setdefault(why, []).append((row, column))
        for why, cells in places.items():
            first = ", ".join(cells[0])
            lines.append(f"{first}{f' and {len(cells) - 1} more' if len(cells) > 1 else ''}: {why}")
        return lines


def _mark_stale(cell: Cell, stale: Mapping[str, str]) -> None:
    """Mark a number that today's code would measure otherwise, and say why."""
    reasons = [stale[run_id] for run_id in (cell.measured.run_ids if cell.measured else ()) if run_id in stale]
    if reasons:
        cell.marks.append("stale")
        cell.why += dict.fromkeys(reasons)


def _named(definition: Definition) -> set[str]:
    """The columns that a definition's filters name."""
    columns = [] if isinstance(definition.columns, str) else definition.columns
    filters = [definition.measured, *(one.measured for one in (*columns, *definition.rows))]
    return {key for one in filters for key in one or {}}


def _selection(rows: list[Row]) -> str | None:
    present = {row["selection"] for row in rows}
    return next((selection for selection in _ORDER if selection in present), None)


def _head(definition: Definition, column: ColumnDefinition, inside: list[Row]) -> Column:
    main = next((row for row in inside if row["metric"] is not None), None)
    unit = column.unit if column.unit is not None else ("%" if main is None else str(main["unit"]))
    better = column.higher_is_better
    if better is None:
        better = True if main is None or column.quantity else bool(main["higher_is_better"])
    digits = definition.digits if column.digits is None else column.digits
    return Column(tuple(column.label.strip().split("\n")), unit, digits, better)


def _cell(
    definition: Definition, row: RowDefinition, column: ColumnDefinition, inside: Lookup, selection: str | None
) -> tuple[Cell, Evidence | None]:
    """The cell, and what its number is made of when it has one."""
    cell = Cell()
    if row.measured is None:
        return cell, None
    here = inside.find(row.measured)
    for state in ("failed", "unfinished"):
        runs = sorted((one["run_id"], one["error"] or "") for one in here if one["state"] == state)
        if runs:
            cell.marks.append("failed" if state == "failed" else "unfinished")
            cell.why += [f"{run_id} {state}{f': {error}' if error else ''}" for run_id, error in runs]
    done = [one for one in here if one["metric"] is not None]
    if column.quantity is not None:
        name = column.quantity.column
        done = [one | {"value": one[name] / column.quantity.divide_by}
                for one in done if one["rank"] == 0 and one[name] is not None]  # fmt: skip
    elif not any("metric" in (wanted or {}) for wanted in (definition.measured, column.measured)):
        done = [one for one in done if one["rank"] == 0]
    on, mark = _on_protocol(done, definition, column)
    chosen, selection_mark = _of_selection(on, selection)
    cell.run_ids = tuple(sorted({one["run_id"] for one in here}))
    if not chosen:
        return cell, None
    cell.marks += [each for each in (mark, selection_mark) if each]
    try:
        evidence = Evidence(chosen)
        cell.measured = measure(evidence, of_samples=column.quantity is None)
    except InputError as refusal:
        cell.marks.append("refused")
        cell.why.append(str(refusal))
        return cell, None
    return cell, evidence


def _on_protocol(done: list[Row], definition: Definition, column: ColumnDefinition) -> tuple[list[Row], Mark | None]:
    """The rows under the protocol that the column wants or, when there are none, the others with their mark."""
    wanted: Filter = {
        f"protocol.{key}": value for key, value in ((definition.require or {}) | (column.require or {})).items()
    }
    if names := column.protocol or definition.protocol:
        wanted["protocol"] = list(names)
    on = Lookup(done).find(wanted)
    return (on, None) if on or not done else (done, "off_protocol")


def _of_selection(done: list[Row], selection: str | None) -> tuple[list[Row], Mark | None]:
    """The rows of the column's selection or, when there are none, those of another with its mark."""
    wanted = [row for row in done if row["selection"] == selection]
    if not wanted:
        other = _selection(done)
        wanted = [row for row in done if row["selection"] == other]
        return wanted, "best" if other == "best" else "held_out" if other == "held_out" else None
    return wanted, "best" if selection == "best" else None


def _published(
    definition: Definition, row: RowDefinition, column: ColumnDefinition, sources: dict[str, int]
) -> Published | None:
    if definition.published is None or row.published is None or column.published is None:
        return None
    wanted = {**definition.published, **column.published, **row.published}
    found = published_numbers.find(wanted)
    if found.empty:
        return None
    if found["value"].nunique() > 1:
        given = "; ".join(
            f"{value:g} in {source}" for value, source in zip(found["value"], found["source"], strict=True)
        )
        raise InputError(
            f"table '{definition.title}', row '{row.label}', column '{' '.join(column.label.split())}': sources differ "
            f"({given}); name the `source` or another column that tells them apart"
        )
    first = found.iloc[0]
    note = sources.setdefault(first["source"], len(sources) + 1)
    return Published(
        value=float(first["value"]),
        std=None if pd.isna(first["std"]) else float(first["std"]),
        n_trials=None if pd.isna(first["n_trials"]) else int(first["n_trials"]),
        source=first["source"],
        location=first["source_location"],
        protocol=first["protocol"],
        match=first["protocol_match"],
        note=note,
    )
