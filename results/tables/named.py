"""Tables by name: list them, write them down, and follow a cell back to its runs, weights and commands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from pretrain.runtime.errors import InputError, unknown
from results.store.store import Store
from results.tables import html, latex, rendering
from results.tables.cells import build
from results.tables.definition import definitions, load_definition
from results.tables.table import MEANINGS, Table

__all__ = ["FORMATS", "Format", "definitions", "render", "table", "titles", "trace"]

Format = Literal["md", "latex", "html", "csv"]
FORMATS: dict[str, Callable[[Table], str]] = {
    "md": rendering.markdown,
    "latex": latex.latex,
    "html": html.page,
    "csv": rendering.comma_separated,
}


def titles() -> dict[str, str]:
    """Name -> title of the package's tables."""
    return {name: load_definition(name).title for name in definitions()}


def table(
    name_or_path: str, store: Store, *, against: str | None = None, stale: Mapping[str, str] | None = None
) -> Table:
    """A table of the package (`definitions()`) or of a YAML file, filled from `store`.

    `against`: the row to which the others are set as differences. `stale`: run id -> why today's code would do that run
    otherwise (`benchmarks.campaign.stale` knows).

    Raises:
        InputError: no such table or row, or a definition that does not hold.
    """
    return build(name_or_path, load_definition(name_or_path), store, against=against, stale=stale)


def render(
    name_or_path: str,
    store: Store,
    *,
    format: str,
    against: str | None = None,
    stale: Mapping[str, str] | None = None,
) -> str:
    """The table in one of `FORMATS`; the same rows give the same bytes.

    Raises:
        InputError: no such table, row or format, or a definition that does not hold.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS)
    return FORMATS[format](table(name_or_path, store, against=against, stale=stale))


def trace(name: str, store: Store, place: str, *, stale: Mapping[str, str] | None = None) -> str:
    """From a cell back to where it comes from: the number, each run with its value, weights and command, the source.

    `place` is "ROW,COLUMN": the labels as the table shows them; case and spaces do not matter.

    Raises:
        InputError: no such table, row or column (with those that exist).
    """
    built = table(name, store, stale=stale)
    i, j = _place(place, built.rows, [one.name for one in built.columns])
    cell, head = built.cells[i][j], built.columns[j]
    lines = [f"{name}: {built.rows[i]} × {head.name}"]
    if cell.published:
        there = cell.published
        lines += [
            f"published  {rendering.published_text(cell, head)} {head.unit}",
            f"  source   {there.source}",
            f"  where    {there.location}",
            f"  protocol {there.protocol}",
            f"  match    {'; '.join(MEANINGS[mark] for mark in cell.published_marks) or 'the same as ours'}",
        ]
    if cell.measured:
        ours = cell.measured
        text = f"measured   {rendering.measured_text(cell, head)} {head.unit} (n = {ours.n}; {ours.selection})"
        if ours.low is not None and ours.high is not None:
            text += f", 95 % interval over test samples {ours.low:.2f} to {ours.high:.2f}"
        lines += [text, f"  protocol {ours.protocol}", f"  data     {ours.data}"]
    if cell.difference is not None:
        lines.append(f"difference {rendering.difference_text(cell, head)}")
    if cell.versus is not None:
        other = cell.versus
        lines += [
            f"to {other.row}".ljust(11) + f"{rendering.versus_text(other, head)} {head.unit} (95 % interval)",
            f"  p        {rendering.p_text(other.p)}, corrected {rendering.p_text(other.corrected)} "
            f"({other.test}; Holm over {other.comparisons})",
        ]
    lines += [f"mark       {rendering.SYMBOLS[mark]} {MEANINGS[mark]}" for mark in cell.marks]
    if not (cell.published or cell.measured or cell.marks):
        lines.append("nothing: no source gives a number and no run was found")
    for run_id in dict.fromkeys([*(cell.measured.run_ids if cell.measured else ()), *cell.run_ids]):
        lines += ["", *_run(store, run_id, used=bool(cell.measured and run_id in cell.measured.run_ids))]
    return "\n".join(lines) + "\n"


def _run(store: Store, run_id: str, *, used: bool) -> list[str]:
    run = store.runs[store.runs["run_id"] == run_id].iloc[0]
    numbers = store.rows[store.rows["run_id"] == run_id]
    shown = [f"{one.metric} {one.value:.6g} {one.unit} ({one.selection})" for one in numbers.itertuples()]
    fields = {
        "state": run["state"] + ("" if used or run["state"] != "done" else ", not part of this number"),
        "error": run["error"],
        "metrics": "; ".join(shown),
        "seed": run["seed"],
        "weights": run["checkpoint_ref"],
        "sha256": run["checkpoint_sha256"],
        "of seed": run["pretrain_seed"],
        "code": run["code_version"],
        "command": run["command"],
        "found in": run["path"],
    }
    present = {key: value for key, value in fields.items() if (isinstance(value, str) and value) or _is_number(value)}
    return [f"run {run_id}", *(f"  {key:<8} {value}" for key, value in present.items())]


def _is_number(value: object) -> bool:
    return isinstance(value, int) or (hasattr(value, "item") and value == value)


def _place(given: str, rows: list[str], columns: list[str]) -> tuple[int, int]:
    """Which row and column are meant. Labels may hold commas: the one that parts a row from a column is taken."""
    plain_rows, plain_columns = (["".join(label.lower().split()) for label in labels] for labels in (rows, columns))
    text = "".join(given.lower().split())
    for comma in (index for index, character in enumerate(text) if character == ","):
        if text[:comma] in plain_rows and text[comma + 1 :] in plain_columns:
            return plain_rows.index(text[:comma]), plain_columns.index(text[comma + 1 :])
    row, comma_between, column = given.partition(",")
    if not comma_between:
        raise InputError(
            f"a cell is named by ROW,COLUMN, not {given!r}; rows: {'; '.join(rows)}; columns: {'; '.join(columns)}"
        )
    known = next((label for label, plain in zip(rows, plain_rows, strict=True) if text.startswith(f"{plain},")), None)
    if known is None:
        raise unknown("row of the table", row.strip(), rows)
    column = column if known.count(",") == 0 else given.split(",", known.count(",") + 1)[-1]
    raise unknown("column of the table", column.strip(), columns)
