"""Pieces of Markdown that the generated pages share."""

from __future__ import annotations

import re
from typing import Any

NOTE = "<!-- made by docs/generate.py: change what it is made from, not this page -->\n\n"


def cell(value: Any) -> str:
    """Text that is safe in a cell of a table."""
    text = re.sub(r"\s+", " ", str(value)).strip()
    # What stands between backticks is code and keeps its characters.
    parts = re.split(r"(`[^`]*`)", text)
    safe = [p if p.startswith("`") else p.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_") for p in parts]
    return "".join(safe).replace("|", "\\|")


def value_cell(value: Any) -> str:
    """A setting's value as code, as YAML would write it."""
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`".replace("|", "\\|") if value != "" else "`''`"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the cells are Markdown already."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def folded(title: str, content: str) -> str:
    """A block that opens with a click."""
    indented = "\n".join(f"    {line}" if line else "" for line in content.splitlines())
    return f'??? note "{title}"\n\n{indented}\n'


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys, as `--set` takes them, in place of mappings in mappings."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found
