"""A table as LaTeX: a `table` environment for the booktabs package, in ASCII."""

from __future__ import annotations

from collections.abc import Sequence

from results.tables.rendering import count_text, difference_text, legend, parts, published_text, shown_text
from results.tables.table import Cell, Column, Mark, Table

_SYMBOLS: dict[Mark, str] = {
    "failed": r"$\times$",
    "unfinished": r"$\ldots$",
    "off_protocol": r"$^{\ddagger}$",
    "best": r"$^{\dagger}$",
    "held_out": r"\S",
    "refused": r"$\neq$",
    "stale": r"$\diamond$",
    "near": r"$\approx$",
    "other": r"\P",
}
_CHARACTERS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "{": r"\{",
    "}": r"\}",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "≈": r"$\approx$",
    "≠": r"$\neq$",
    "Δ": r"$\Delta$",
    "α": r"$\alpha$",
    "·": r"$\cdot$",
    "→": r"$\rightarrow$",
    "✗": r"$\times$",
    "…": r"$\ldots$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "§": r"\S{}",
    "¶": r"\P{}",
    "◊": r"$\diamond$",
    "’": "'",
    **{character: "\\" + character for character in "&%$#_"},
}
_ACCENTS = {"ä": r"\"a", "ö": r"\"o", "ü": r"\"u", "Ä": r"\"A", "Ö": r"\"O", "Ü": r"\"U", "ß": r"\ss{}"}
_ACCENTS |= {"é": r"\'e", "è": r"\`e", "á": r"\'a", "í": r"\'i", "ó": r"\'o", "ñ": r"\~n", "ç": r"\c{c}"}


def escape(text: str) -> str:
    """Text as LaTeX; a letter that plain pdflatex cannot set is written as its code point, [U+4E2D]."""
    return "".join(_character(character) for character in " ".join(text.split()))


def latex(table: Table) -> str:
    """The table, its legend, notes and sources below it."""
    shown = parts(table)
    width = len(shown)
    label = "".join(character if character.isalnum() else "-" for character in table.name)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escape(table.title)}.{' ' + escape(table.caption) if table.caption else ''}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{@{{}}l{'r' * width * len(table.columns)}@{{}}}}",
        r"\toprule",
    ]
    heads = [rf"\multicolumn{{{width}}}{{c}}{{{_heading(column)}}}" for column in table.columns]
    lines.append(" & ".join(["", *heads]) + r" \\")
    if width > 1:
        spans = [(2 + width * index, 1 + width * (index + 1)) for index in range(len(table.columns))]
        lines.append("".join(rf"\cmidrule(lr){{{begin}-{end}}}" for begin, end in spans))
        lines.append(" & ".join(["", *([escape(part) for part in shown] * len(table.columns))]) + r" \\")
    lines.append(r"\midrule")
    for name, row in zip(table.rows, table.cells, strict=True):
        texts = [
            _part(cell, column, part, table) for cell, column in zip(row, table.columns, strict=True) for part in shown
        ]
        lines.append(" & ".join([escape(name), *texts]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", r"\par\medskip\begin{minipage}{\linewidth}\footnotesize\raggedright"]
    notes = [*legend(table), *table.notes]
    lines += [escape(note) + r"\par" for note in notes]
    lines += [rf"[{index}] {escape(source)}\par" for index, source in enumerate(table.sources, 1)]
    return "\n".join([*lines, r"\end{minipage}", r"\end{table}"]) + "\n"


def _heading(column: Column) -> str:
    rows = [escape(line) for line in column.label]
    if column.unit:
        rows[-1] += f" ({escape(column.unit)})"
    if len(rows) == 1:
        return rows[0]
    return r"\begin{tabular}[b]{@{}c@{}}" + r" \\ ".join(rows) + r"\end{tabular}"


def _part(cell: Cell, column: Column, part: str, table: Table) -> str:
    if part == "published":
        note = f"[{cell.published.note}]" if cell.published else ""
        return " ".join(filter(None, [escape(published_text(cell, column)), _marks(cell.published_marks), note]))
    if part == "Δ":
        return escape(difference_text(cell, column))
    text = escape(shown_text(cell, column, table))
    # The sign ± stands in mathematics, which \textbf does not reach: its numbers do the work.
    text = rf"\textbf{{{text}}}" if cell.bold else text
    return " ".join(filter(None, [text, escape(count_text(cell, table)), _marks(cell.marks)]))


def _marks(marks: Sequence[Mark]) -> str:
    return "".join(_SYMBOLS[mark] for mark in marks)


def _character(character: str) -> str:
    if character in _CHARACTERS:
        return _CHARACTERS[character]
    if character.isascii():
        return character
    return _ACCENTS.get(character, f"[U+{ord(character):04X}]")
