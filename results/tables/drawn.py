"""A table drawn on a terminal: as wide as it needs, in blocks of columns that fit, notes wrapped below."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table as Drawn
from rich.text import Text

from results.tables.rendering import (
    count_text,
    difference_text,
    legend,
    marks_text,
    parts,
    published_text,
    shown_text,
)
from results.tables.table import Cell, Column, Table


def draw(table: Table, console: Console | None = None) -> None:
    """Print the table. Where its columns do not fit side by side, in blocks that each repeat the rows' labels."""
    console = console or Console()
    console.print(Text(table.title, style="bold"))
    label_width = max((len(label) for label in table.rows), default=4)
    blocks: list[list[int]] = [[]]
    used = label_width
    for index, column in enumerate(table.columns):
        width = 2 + _width(table, index, column)
        if blocks[-1] and used + width > console.width:
            blocks.append([])
            used = label_width
        blocks[-1].append(index)
        used += width
    for block in blocks:
        console.print(_block(table, block))
        console.print()
    if table.caption:
        console.print(Text(table.caption))
    for line in [*legend(table), *table.notes, *(f"[{i}] {source}" for i, source in enumerate(table.sources, 1))]:
        console.print(Text(f"- {line}"))


def _block(table: Table, columns: list[int]) -> Drawn:
    shown = parts(table)
    drawn = Drawn(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    drawn.add_column("", no_wrap=True)
    for index in columns:
        head = _head(table.columns[index])
        for part in shown:
            title = "\n".join([*head, part] if len(shown) > 1 else head)
            drawn.add_column(escape(title), justify="right", no_wrap=True)
    for label, row in zip(table.rows, table.cells, strict=True):
        texts = [_text(row[index], table.columns[index], part, table) for index in columns for part in shown]
        drawn.add_row(Text(label), *texts)
    return drawn


def _head(column: Column) -> list[str]:
    lines = list(column.label)
    if column.unit:
        lines[-1] += f" ({column.unit})"
    return lines


def _width(table: Table, index: int, column: Column) -> int:
    shown = parts(table)
    widths = []
    for part in shown:
        cells = [len(_text(row[index], column, part, table)) for row in table.cells]
        widths.append(max([*cells, *map(len, _head(column)), len(part)]))
    return sum(widths) + 2 * (len(shown) - 1)


def _text(cell: Cell, column: Column, part: str, table: Table) -> Text:
    if part == "published":
        note = f"[{cell.published.note}]" if cell.published else ""
        return Text(" ".join(filter(None, [published_text(cell, column), marks_text(cell.published_marks), note])))
    if part == "Δ":
        return Text(difference_text(cell, column))
    text = Text(shown_text(cell, column, table), style="bold" if cell.bold else "")
    for more in (count_text(cell, table), marks_text(cell.marks)):
        if more:
            text.append(f" {more}", style="dim" if more.startswith("(") else "")
    return text
