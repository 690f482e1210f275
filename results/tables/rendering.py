"""A table as Markdown and CSV, and the words that all formats share: numbers, marks, legend and notes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from results.tables.table import MEANINGS, Cell, Column, Mark, Table, Versus

SYMBOLS: dict[Mark, str] = {
    "failed": "✗",
    "unfinished": "…",
    "off_protocol": "‡",
    "best": "†",
    "held_out": "§",
    "refused": "≠",
    "stale": "◊",
    "near": "≈",
    "other": "¶",
}
MISSING = "–"


def number(value: float, digits: int, *, signed: bool = False) -> str:
    """A number with a real minus sign: 73.5, −0.4, +0.3. A rounded zero has no sign."""
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = ("±" if signed else "") + text.lstrip("+-")
    return text.replace("-", "−")


def published_text(cell: Cell, column: Column) -> str:
    """The published number, with its standard deviation where the source gives one."""
    if cell.published is None:
        return MISSING
    spread = "" if cell.published.std is None else f" ± {number(cell.published.std, column.digits)}"
    return number(cell.published.value, column.digits) + spread


def measured_text(cell: Cell, column: Column) -> str:
    """Our number: mean ± std, without n and marks."""
    if cell.measured is None:
        return "" if cell.marks else MISSING
    spread = "" if cell.measured.std is None else f" ± {number(cell.measured.std, column.digits)}"
    return number(cell.measured.mean, column.digits) + spread


def shown_text(cell: Cell, column: Column, table: Table) -> str:
    """What stands for our number: itself, or its difference to the row that the table is set against."""
    if table.against is None or cell.versus is None:
        return measured_text(cell, column)
    return f"{versus_text(cell.versus, column)}, p {p_text(cell.versus.corrected)}"


def count_text(cell: Cell, table: Table) -> str:
    """How many numbers are behind our number, in brackets; nothing beside a difference."""
    return f"({cell.measured.n})" if cell.measured and (table.against is None or cell.versus is None) else ""


def versus_text(versus: Versus, column: Column) -> str:
    """A difference with its 95 % interval: +1.4 (−0.2 to 3.0)."""
    low, high = (number(end, column.digits) for end in (versus.low, versus.high))
    return f"{number(versus.difference, column.digits, signed=True)} ({low} to {high})"


def p_text(p: float) -> str:
    """A p value as papers write it: 0.04, 0.003, < 0.001. One below 0.05 is never rounded up to it."""
    if p < 0.001:
        return "< 0.001"
    for digits in (2, 3, 4, 5):
        text = f"{p:.{digits}f}"
        if float(text) != 0 and (float(text) < 0.05) == (p < 0.05):
            return text
    return f"{p:.6f}"


def difference_text(cell: Cell, column: Column) -> str:
    """Ours minus the published, signed."""
    return MISSING if cell.difference is None else number(cell.difference, column.digits, signed=True)


def marks_text(marks: Sequence[Mark]) -> str:
    """The symbols of marks."""
    return "".join(SYMBOLS[mark] for mark in marks)


def legend(table: Table) -> list[str]:
    """What the table's numbers and marks mean, one sentence each."""
    lines = []
    if table.against is not None:
        lines.append(
            f"Differences to {table.against} with their 95 % interval, and p corrected by Holm over the rows of the "
            "column."
        )
    if any(cell.measured for row in table.cells for cell in row):
        lines.append(
            "Mean ± sample standard deviation over pretrainings (n); n×m: each evaluated with m seeds, of which the "
            "mean is taken first; 1×m: one pretraining, ± over its evaluation seeds."
        )
    if table.has_published and table.has_measured:
        lines.append("Δ: ours minus published.")
    elif table.has_published:
        lines.append("All numbers are published ones; nothing of this table is measured here yet.")
    lines.append(f"{MISSING}: no number" + (" in any source." if table.has_published else "."))
    lines += [f"{SYMBOLS[mark]}: {MEANINGS[mark]}." for mark in table.marks]
    if any(cell.bold for row in table.cells for cell in row):
        if table.against is not None:
            lines.append(f"Bold: differs from {table.against} (Holm-corrected, p < 0.05).")
        else:
            lines.append("Bold: the best of a column and those not significantly worse (Holm-corrected, p ≥ 0.05).")
    return lines


def report_legend(tables: Sequence[Table]) -> list[str]:
    """The legends of several tables, each sentence once."""
    lines = dict.fromkeys(line for table in tables for line in legend(table))
    if f"{MISSING}: no number in any source." in lines:
        lines.pop(f"{MISSING}: no number.", None)
    return list(lines)


def heading(column: Column) -> str:
    """A column's heading in one line, with its unit."""
    return column.name + (f" ({column.unit})" if column.unit else "")


def parts(table: Table) -> list[str]:
    """What stands in each column: some of published, ours and Δ."""
    if not table.has_published:
        return ["ours"]
    return ["published", "ours", "Δ"] if table.has_measured else ["published"]


def markdown(table: Table) -> str:
    """GitHub-flavoured Markdown."""
    shown = parts(table)
    heads = [
        _md(heading(column)) + (f"<br>{part}" if len(shown) > 1 else "") for column in table.columns for part in shown
    ]
    lines = [f"**{_md(table.title)}**", "", "| " + " | ".join(["", *heads]) + " |"]
    lines.append("|:--|" + "--:|" * len(heads))
    for label, row in zip(table.rows, table.cells, strict=True):
        texts = [
            _md_part(cell, column, part, table)
            for cell, column in zip(row, table.columns, strict=True)
            for part in shown
        ]
        lines.append("| " + " | ".join([_md(label), *texts]) + " |")
    if not table.rows:
        lines += ["", "No run matches this table."]
    lines += ["", *([_md(table.caption), ""] if table.caption else [])]
    lines += [f"- {_md(line)}" for line in [*legend(table), *table.notes]]
    lines += [f"- [{index}] {_md(source)}" for index, source in enumerate(table.sources, 1)]
    return "\n".join(lines).rstrip() + "\n"


def _md_part(cell: Cell, column: Column, part: str, table: Table) -> str:
    if part == "published":
        note = f"[{cell.published.note}]" if cell.published else ""
        return " ".join(filter(None, [published_text(cell, column), marks_text(cell.published_marks), note]))
    if part == "Δ":
        return difference_text(cell, column)
    text = shown_text(cell, column, table)
    text = f"**{text}**" if cell.bold else text
    return " ".join(filter(None, [text, count_text(cell, table), marks_text(cell.marks)]))


def _md(text: str) -> str:
    for character in "\\`*_[]<>|":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())


_FIELDS = [
    "row",
    "column",
    "unit",
    "published",
    "published_std",
    "published_source",
    "published_match",
    "measured",
    "std",
    "pretrainings",
    "evaluations",
    "ci95_low",
    "ci95_high",
    "difference",
    "selection",
    "protocol",
    "data",
    "versus",
    "versus_difference",
    "versus_low",
    "versus_high",
    "p",
    "p_holm",
    "test",
    "marks",
    "bold",
    "run_ids",
]


def comma_separated(table: Table) -> str:
    """CSV, one cell a line, numbers to 6 digits: for programs; the other formats are for readers."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _FIELDS, lineterminator="\n")
    writer.writeheader()
    for label, row in zip(table.rows, table.cells, strict=True):
        for column, cell in zip(table.columns, row, strict=True):
            writer.writerow(_csv_row(label, column, cell))
    return stream.getvalue()


def _csv_row(label: str, column: Column, cell: Cell) -> dict[str, str | int]:
    values: dict[str, str | int] = {"row": label, "column": column.name, "unit": column.unit}
    if cell.published:
        values |= {
            "published": _digits(cell.published.value),
            "published_std": _digits(cell.published.std),
            "published_source": cell.published.source,
            "published_match": cell.published.match,
        }
    if cell.measured:
        ours = cell.measured
        values |= {
            "measured": _digits(ours.mean),
            "std": _digits(ours.std),
            "pretrainings": ours.pretrainings,
            "evaluations": ours.evaluations,
            "ci95_low": _digits(ours.low),
            "ci95_high": _digits(ours.high),
            "difference": _digits(cell.difference),
            "selection": ours.selection,
            "protocol": ours.protocol,
            "data": ours.data,
            "run_ids": " ".join(ours.run_ids),
        }
    if cell.versus:
        other = cell.versus
        values |= {
            "versus": other.row,
            "versus_difference": _digits(other.difference),
            "versus_low": _digits(other.low),
            "versus_high": _digits(other.high),
            "p": _digits(other.p),
            "p_holm": _digits(other.corrected),
            "test": other.test,
        }
    return values | {"marks": " ".join(cell.marks), "bold": int(cell.bold)}


def _digits(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
