"""The reference pages, made from the command line and the presets themselves: `python docs/generate.py`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import typer.main

from benchmarks.cli import app
from evaluate.task import TASKS, protocols
from pretrain.files import write_text
from pretrain.recipe import RECIPES
from pretrain.settings import Settings
from results.store import COLUMNS

HERE = Path(__file__).parent
NOTE = "<!-- made by docs/generate.py: change what it is made from, not this page -->\n\n"


def commands_page() -> str:
    """Every command's own help text."""
    root = typer.main.get_command(app)
    parts = ["# Commands\n"]
    for words, command in _walk(root, ["fastmoco"]):
        context = click.Context(command, info_name=" ".join(words), terminal_width=100, max_content_width=100)
        parts.append(f"## {' '.join(words)}\n\n```text\n{command.get_help(context).strip()}\n```\n")
    return NOTE + "\n".join(parts)


def _walk(command: Any, words: list[str]) -> list[tuple[list[str], Any]]:
    children = getattr(command, "commands", {})
    found = [(words, command)] if not children else []
    for name, child in sorted(children.items()):
        found += _walk(child, [*words, name])
    return found


def recipes_page() -> str:
    """Every recipe: what it rests on, and the fields in which it differs from r50_e100."""
    parts = ["# Recipes of pretraining\n"]
    for name, recipe in RECIPES.items():
        parts.append(f"## {name}\n\nSource: {recipe.source}\n\n{_table(recipe, recipe.sources)}")
    return NOTE + "\n".join(parts)


def protocols_page() -> str:
    """Every protocol of every task with every number and its source."""
    parts = ["# Protocols of evaluation\n"]
    for task, entry in TASKS.items():
        parts.append(f"## {task}\n\n{entry.summary[0].upper()}{entry.summary[1:]}; main metric `{entry.metric}`.\n")
        for name, protocol in protocols(task).items():
            table = _table(protocol, protocol.sources)
            parts.append(f"### {task} {name}\n\nSource: {protocol.source}\n\n{table}")
    return NOTE + "\n".join(parts)


def columns_page() -> str:
    """Every column of the rows."""
    lines = [f"| `{name}` | {_cell(text)} |" for name, text in COLUMNS.items()]
    return NOTE + "\n".join(["# Columns of the rows", "", "| column | what it holds |", "|---|---|", *lines, ""])


def _table(settings: Settings, sources: dict[str, str]) -> str:
    lines = ["| field | value | its own source |", "|---|---|---|"]
    for field, value in settings.model_dump(mode="json").items():
        if field not in ("name", "source", "sources"):
            lines.append(f"| `{field}` | {_cell(value)} | {_cell(sources.get(field, ''))} |")
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("\n", " ")


PAGES = {
    "commands.md": commands_page,
    "recipes.md": recipes_page,
    "protocols.md": protocols_page,
    "columns.md": columns_page,
}

if __name__ == "__main__":
    for page, make in PAGES.items():
        write_text(HERE / "reference" / page, make())
    sys.exit(0)
