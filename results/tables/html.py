"""A table as HTML: a page of its own, or the part of a report."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from results.tables import rendering
from results.tables.table import MEANINGS, Table


@functools.lru_cache(maxsize=1)
def environment() -> Environment:
    """The templates of `results/templates/`, everything escaped unless a template says otherwise."""
    folder = Path(str(resources.files("results"))) / "templates"
    made = Environment(
        loader=FileSystemLoader(folder, encoding="utf-8"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals |= {
        "published_text": rendering.published_text,
        "shown_text": rendering.shown_text,
        "count_text": rendering.count_text,
        "difference_text": rendering.difference_text,
        "legend": rendering.legend,
        "parts": rendering.parts,
        "symbols": rendering.SYMBOLS,
        "meanings": MEANINGS,
    }
    return made


def page(table: Table) -> str:
    """A whole page that holds the table alone."""
    return environment().get_template("table_page.html.j2").render(table=table)
