"""A table as LaTeX, no wider than its page: a `table` environment for booktabs and graphicx, in ASCII."""

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


# Characters of a line in \small on the 345 pt of an article's page.
_LINE = 76


def escape(text: str) -> str:
    """Text as LaTeX; a letter that plain pdflatex cannot set is written as its code point, [U+4E2D]."""
    return "".join(_character(character) for character in " ".join(text.split()))


def latex(table: Table) -> str:
    """The table, its legend, notes and sources below it."""
    label = "".join(character if character.isalnum() else "-" for character in table.name)
    lines = [
        r"% needs \usepackage{booktabs,graphicx}",
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escape(table.title)}.{' ' + escape(table.caption) if table.caption else ''}}}",
        rf"\label{{tab:{label}}}",
    ]
    for block in _blocks(table):
        lines += _tabular(table, block)
    lines.append(r"\medskip\begin{minipage}{\linewidth}\footnotesize\raggedright")
    notes = [*legend(table), *table.notes]
    lines += [escape(note) + r"\par" for note in notes]
    lines += [rf"[{index}] {escape(source)}\par" for index, source in enumerate(table.sources, 1)]
    return "\n".join([*lines, r"\end{minipage}", r"\end{table}"]) + "\n"


def _blocks(table: Table) -> list[list[int]]:
    """Columns in blocks that fit a page's width side by side, each of which repeats the rows' labels."""
    used = first = max((len(label) for label in table.rows), default=0)
    blocks: list[list[int]] = [[]]
    for index, column in enumerate(table.columns):
        width = 2 * len(parts(table))
        for part in parts(table):
            texts = [_plain(row[index], column, part, table) for row in table.cells]
            width += max([len(part), *map(len, texts)])
        width = max(width, *(len(line) + 4 for line in column.label))
        if blocks[-1] and used + width > _LINE:
            blocks.append([])
            used = first
        blocks[-1].append(index)
        used += width
    return blocks


def _plain(cell: Cell, column: Column, part: str, table: Table) -> str:
    if part == "published":
        return published_text(cell, column) + (" [00]" if cell.published else "")
    if part == "Δ":
        return difference_text(cell, column)
    return f"{shown_text(cell, column, table)} {count_text(cell, table)} {'*' * len(cell.marks)}".strip()


def _tabular(table: Table, block: Sequence[int]) -> list[str]:
    """One block of columns; what is still too wide (a single column, long labels) is shrunk to the line."""
    shown = parts(table)
    width = len(shown)
    lines = [
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{@{{}}l{'r' * width * len(block)}@{{}}}}",
        r"\toprule",
    ]
    heads = [rf"\multicolumn{{{width}}}{{c}}{{{_heading(table.columns[index])}}}" for index in block]
    lines.append(" & ".join(["", *heads]) + r" \\")
    if width > 1:
        spans = [(2 + width * index, 1 + width * (index + 1)) for index in range(len(block))]
        lines.append("".join(rf"\cmidrule(lr){{{begin}-{end}}}" for begin, end in spans))
        lines.append(" & ".join(["", *([escape(part) for part in shown] * len(block))]) + r" \\")
    lines.append(r"\midrule")
    for name, row in zip(table.rows, table.cells, strict=True):
        texts = [_part(row[index], table.columns[index], part, table) for index in block for part in shown]
        lines.append(" & ".join([escape(name), *texts]) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}}\par\medskip"]


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
