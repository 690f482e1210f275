"""What a shell may complete: names of tasks, protocols, recipes, data sets and tables. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import typer

from pretrain.runtime.errors import InputError


def tasks(incomplete: str) -> list[str]:
    """Names of tasks."""
    from evaluate.task import TASKS

    return _beginning(incomplete, TASKS)


def paths(incomplete: str) -> list[str]:
    """Files and folders, the latter with their slash."""
    folder, _, start = incomplete.rpartition("/")
    place = Path(folder or ("/" if incomplete.startswith("/") else ".")).expanduser()
    above = incomplete.removesuffix(start)
    try:
        return sorted(
            f"{above}{p.name}{'/' if p.is_dir() else ''}" for p in place.iterdir() if p.name.startswith(start)
        )
    except OSError:
        return []


def protocols(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the protocols of the task that the line names."""
    from evaluate.task import TASKS
    from evaluate.task import protocols as of_task

    # While an option waits for its value, click has not yet taken the arguments before it.
    task = next((word for word in (ctx.params.get("task"), *ctx.args) if word in TASKS), None)
    return _beginning(incomplete, of_task(task)) if task else []


def recipes(incomplete: str) -> list[str]:
    """Names of recipes."""
    from pretrain.recipes import RECIPES

    return _beginning(incomplete, RECIPES)


def data_sets(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the sets of the catalog that the line or the environment names."""
    from pretrain.data.catalog import Catalog

    before = ctx.parent.params.get("catalog") if ctx.parent else None
    path = ctx.params.get("catalog") or before
    try:
        return _beginning(incomplete, Catalog.load(Path(path) if path else None).names())
    except InputError:  # a shell that completes has nowhere to say that the catalog is wrong
        return []


def tables(incomplete: str) -> list[str]:
    """Names of the package's tables."""
    from results.tables.definition import definitions

    return _beginning(incomplete, definitions())


def _beginning(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
