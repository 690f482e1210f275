"""The parts of the documentation that are made from the code, and the JSON schemas: `python docs/generate.py`.

Also refreshes the measured tables of Markdown files (`results.readme`) and draws the pictures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import typer.main
from generated_files import backbones_page, catalog_page, spec_page, tables_page
from generated_presets import conformance_page, protocol_page, protocols_index, recipes_page
from markdown_parts import NOTE, cell, table
from pictures import FOLDER, PICTURES
from step_costs import with_costs
from test_sizes import with_test_sizes

from benchmarks.cli import app
from benchmarks.schema import TITLES, schema, shipped
from evaluate.checkpoints.formats import FORMATS, PLAIN
from evaluate.task import TASKS
from pretrain.runtime.files import write_text
from results.readme import refreshed
from results.store.store import COLUMNS

HERE = Path(__file__).parent
REFERENCE = HERE / "reference"
WITH_MEASURED = (HERE.parent / "README.md", HERE / "measured.md", HERE / "evidence.md", HERE / "statistics.md")


def walk(command: Any, words: list[str]) -> list[tuple[list[str], Any]]:
    """Every command that has no commands of its own, with the words that call it."""
    children = getattr(command, "commands", {})
    found = [(words, command)] if not children else []
    for name, child in sorted(children.items()):
        found += walk(child, [*words, name])
    return found


def commands_page() -> str:
    """Every command's own help text."""
    root = typer.main.get_command(app)
    parts = ["# Commands\n", "What `--help` prints, for `fastmoco` itself and for every command.\n"]
    for words, command in [(["fastmoco"], root), *walk(root, ["fastmoco"])]:
        context = click.Context(command, info_name=" ".join(words), terminal_width=88, max_content_width=88)
        parts.append(f"## {' '.join(words)}\n\n```text\n{command.get_help(context).strip()}\n```\n")
    parts.append(
        "Exit codes: 0 done; 1 the work failed, or some runs of a campaign did; 2 the input is wrong, told in one "
        "sentence; 128 + N stopped by signal N after the state was saved.\n"
    )
    return NOTE + "\n".join(parts)


def columns_page() -> str:
    """Every column of the rows."""
    rows = [[f"`{name}`", cell(text)] for name, text in COLUMNS.items()]
    intro = (
        "`results.store.store.load([...])` gives one metric of one run a row, in these columns; filters of table "
        "definitions name them. The file it is read from, `result.json`, has the same content as a tree.\n"
    )
    return NOTE + "\n".join(["# Columns of the rows\n", intro, table(["column", "what it holds"], rows)])


def formats_page() -> str:
    """Every checkpoint format that is recognised."""
    parts = [
        "# Checkpoint formats\n",
        "A file is recognised by its structure, never by its name, and nothing in it is executed. Every format, as "
        "`fastmoco inspect` names it. Names of tensors are patterns. [Add one](../tutorials/add_a_format.md).\n",
    ]
    for one in (*FORMATS, PLAIN):
        taken = " or ".join(_pattern(pattern) for pattern in one.evaluated if pattern) or "the only one"
        given = f"`{one.normalization}`" if one.normalization else "names cannot tell; `--normalization` says it"
        lines = [
            f"- **Told by** {cell(one.told_by)}.",
            f"- **Encoder taken**: {taken}; {cell(one.because)}.",
            f"- **Input**: {given}.",
        ]
        if one.drops:
            lines.append(f"- **Left out**: {'; '.join(f'{_pattern(p)} ({cell(why)})' for p, why in one.drops)}.")
        parts.append(f"## {one.name}\n\n{one.title[0].upper()}{one.title[1:]}.\n\n" + "\n".join(lines) + "\n")
    return NOTE + "\n".join(parts)


def _pattern(pattern: str) -> str:
    """A pattern over clean names as a reader would write it."""
    return f"`{pattern.replace(chr(92) + '.', '.')}`"


PAGES: dict[str, Callable[[], str]] = {
    "commands.md": commands_page,
    "recipes.md": recipes_page,
    "protocols.md": protocols_index,
    **{f"protocols_{task}.md": (lambda task=task: protocol_page(task)) for task in TASKS},
    "conformance.md": conformance_page,
    "formats.md": formats_page,
    "backbones.md": backbones_page,
    "catalog.md": catalog_page,
    "spec.md": spec_page,
    "tables.md": tables_page,
    "columns.md": columns_page,
}


def schema_text(name: str) -> str:
    """A schema as it lies in the package."""
    return json.dumps(schema(name), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for page, make in PAGES.items():
        write_text(REFERENCE / page, make())
    for name in TITLES:
        write_text(shipped(name), schema_text(name))
    for name, draw in PICTURES.items():
        write_text(FOLDER / name, draw())
    for page in WITH_MEASURED:
        write_text(page, with_test_sizes(with_costs(refreshed(page.read_text(encoding="utf-8")))))
    sys.exit(0)
