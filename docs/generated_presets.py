"""Pages of the presets: recipes of pretraining and protocols of evaluation, every number with its source."""

from __future__ import annotations

import importlib
from typing import Any

from markdown_parts import NOTE, cell, flat, folded, table, value_cell

from benchmarks.schema import attributes, summary
from evaluate.protocols import conformance
from evaluate.task import TASKS, protocols
from pretrain.recipes import RECIPES
from pretrain.runtime.settings import Settings

CONFORMANCE_INTRO = (
    "Every named preset is held, by `tests/conformance`, against facts read in its source: what the real code paths "
    "produce, step for step, against definitions that share no code with them. A preset without a row here fails the "
    "suite. `fastmoco protocols TASK NAME` and `fastmoco recipes NAME` print a row.\n"
)
_WORDS = ("name", "source", "sources")


def recipes_page() -> str:
    """Every recipe: what it rests on, and the fields in which it differs from r50_e100."""
    first = RECIPES["r50_e100"]
    parts = [
        "# Recipes of pretraining\n",
        "`fastmoco recipes NAME` prints a recipe, `fastmoco recipes NAME OTHER` what differs. Any value is changed by "
        "`--set field=value`, or by `set:` in a campaign spec.\n",
        "## What the fields mean\n",
        _meanings_table(type(first)),
    ]
    for name, recipe in RECIPES.items():
        parts.append(f"## {name}\n\nSource: {cell(recipe.source)}.\n")
        row = conformance.rows()[conformance.PRETRAIN][name]
        if row.facts:
            deviations = [f"- {cell(text)}" for text in row.deviations] or ["- none"]
            parts.append("\n".join(["Known deviations from it:\n", *deviations]) + "\n")
        if name != first.name:
            parts.append(_differences(recipe, first))
        parts.append(folded(f"All values of {name}", _values(recipe)))
    return NOTE + "\n".join(parts)


def protocols_index() -> str:
    """The tasks and the names of their protocols."""
    rows = []
    for task, entry in TASKS.items():
        default = importlib.import_module(entry.protocols).DEFAULT
        names = ", ".join(f"**{name}**" if name == default else name for name in protocols(task))
        link = f"[{task}](protocols_{task}.md)"
        rows.append([link, cell(entry.summary), f"`{entry.metric}`", names.replace("_", "\\_")])
    return NOTE + "\n".join(
        [
            "# Tasks and protocols\n",
            "A protocol is a named, sourced way to do a task. The bold one is taken when none is named. "
            "`fastmoco protocols TASK NAME` prints one, `fastmoco protocols TASK NAME OTHER` what differs; any value "
            "is changed by `--set field=value`.\n",
            table(["task", "what it does", "main metric", "protocols"], rows),
        ]
    )


def conformance_page() -> str:
    """Every preset: what it is held against, what deviates, and what is not verified."""
    parts = ["# Conformance\n", CONFORMANCE_INTRO, f"Tolerance: {conformance.TOLERANCE}.\n"]
    for task, presets in conformance.rows().items():
        parts.append(f"## {task}\n\nHeld: {cell(conformance.HELD[task])}.\n")
        rows = []
        for name, row in presets.items():
            told = dict(row.lines(task))
            against = told["held against"] if row.facts else f"{told['held against']} (nothing outside this project)"
            rows.append([f"`{name}`", cell(against), cell(told["deviations"]), cell(told["not verified"])])
        parts.append(table(["preset", "held against", "deviations", "not verified"], rows))
    return NOTE + "\n".join(parts)


def protocol_page(task: str) -> str:
    """One task: what its fields mean, and every protocol with every number and its source."""
    entry, known = TASKS[task], protocols(task)
    default = known[importlib.import_module(entry.protocols).DEFAULT]
    parts = [f"# {task}\n", f"{entry.summary[0].upper()}{entry.summary[1:]}; main metric `{entry.metric}`.\n"]
    models = list(dict.fromkeys(type(protocol) for protocol in known.values()))
    parts.append("## What the fields mean\n")
    for model in models:
        users = [name for name, protocol in known.items() if type(protocol) is model]
        if len(models) > 1:
            parts.append(f"Protocols {', '.join(f'`{name}`' for name in users)}:\n")
        parts.append(f"{summary(model)}\n")
        parts.append(_meanings_table(model))
    for name, protocol in known.items():
        parts.append(f"## {name}\n\nSource: {cell(protocol.source)}.\n")
        if protocol is default:
            parts.append(f"Taken when `fastmoco evaluate {task}` names no protocol.\n")
        elif type(protocol) is type(default):
            parts.append(_differences(protocol, default))
        parts.append(folded(f"All values of {name}", _values(protocol)))
    return NOTE + "\n".join(parts)


def _meanings_table(model: type[Settings]) -> str:
    """What the docstrings say of the fields that the model has; fields that share a sentence share a row."""
    fields: dict[str, list[str]] = {}
    for field, text in attributes(model).items():
        if field in model.model_fields and field not in _WORDS:
            fields.setdefault(text, []).append(f"`{field}`")
    return table(["field", "meaning"], [[", ".join(shared), cell(text)] for text, shared in fields.items()])


def _differences(settings: Settings, base: Any) -> str:
    rows = [
        [f"`{key}`", value_cell(here), value_cell(there)]
        for key, (here, there) in settings.differences(base).items()
        if key.partition(".")[0] not in _WORDS
    ]
    if not rows:
        return f"The same values as `{base.name}`.\n"
    return table(["field", "here", f"in `{base.name}`"], rows)


def _values(settings: Settings) -> str:
    values = settings.model_dump(mode="json")
    sources: dict[str, str] = values.get("sources", {})
    rows = []
    for key, value in flat({name: value for name, value in values.items() if name not in _WORDS}).items():
        own = sources.get(key) or sources.get(key.partition(".")[0]) or ""
        rows.append([f"`{key}`", value_cell(value), cell(own)])
    return table(["field", "value", "its own source"], rows)
