"""Pages of the files that users write (catalog, campaign spec, table definitions) and of the backbones."""

from __future__ import annotations

from typing import Any

import torch
from markdown_parts import NOTE, cell, table, value_cell
from pydantic import BaseModel

from benchmarks.schema import attributes, models, schema, summary
from pretrain.backbones.registry import build, names
from results.store.published import PUBLISHED_COLUMNS
from results.tables.definition import definitions, load_definition


def catalog_page() -> str:
    """Every format of the data catalog with its keys."""
    parts = [
        "# The data catalog\n",
        "A YAML file: the name of a data set, then where it lies. `--catalog FILE` or `FASTMOCO_CATALOG` names it. "
        "Relative paths are relative to the file. `shapes` and `scenes` are generated and need no catalog.\n",
        '```yaml\n--8<-- "docs/examples/catalog.yaml"\n```\n',
        _editors("catalog"),
    ]
    made = schema("catalog")["$defs"]
    for model in models("catalog"):
        form = model.model_fields.get("format")
        title = f"## {form.annotation.__args__[0]}" if form else f"### {model.__name__}"  # type: ignore[union-attr]
        parts += [f"{title}\n", f"{summary(model)}\n", _keys(model, made[model.__name__])]
    return NOTE + "\n".join(parts)


def spec_page() -> str:
    """Every key of the campaign spec."""
    parts = [
        "# The campaign spec\n",
        "A YAML file: what to pretrain, which checkpoints to measure, by which tasks, and where. Unknown keys and "
        "wrong values are errors that name the line.\n",
        '```yaml\n--8<-- "benchmarks/campaigns/demo.yaml"\n```\n',
        _editors("spec"),
    ]
    whole = schema("spec")
    titles = {
        "CampaignSpec": "The file",
        "PretrainEntry": "An entry of `pretrain`",
        "CheckpointEntry": "An entry of `checkpoints`",
        "EvaluateEntry": "An entry of `evaluate`",
        "Launch": "launch",
        "Retry": "launch.retry",
        "OutOfMemory": "launch.retry.oom",
        "Times": "launch.retry.node, launch.retry.timeout",
        "SharedResources": "launch.slurm",
        "Resources": "Resources: `launch.tasks.TASK`, `launch.slurm.by_backbone`, `resources`",
        "Hints": "estimate",
    }
    by_name = {model.__name__: model for model in models("spec")}
    for name, title in {**titles, **{name: name for name in by_name if name not in titles}}.items():
        model = by_name[name]
        definition = whole["$defs"].get(name, whole)
        parts += [f"## {title}\n", f"{summary(model)}\n", _keys(model, definition)]
    return NOTE + "\n".join(parts)


def tables_page() -> str:
    """Every table of the package."""
    parts = [
        "# Tables\n",
        "`fastmoco table NAME --root DIR` fills one of these, or a YAML file of your own in the same form. Published "
        "cells carry their source; measured cells their spread, seeds and runs (`--trace ROW,COLUMN`).\n",
    ]
    for name in definitions():
        definition: Any = load_definition(name)
        parts.append(f"## {name}\n\n{f'**{cell(definition.title)}.** {cell(definition.caption)}'.strip()}\n")
        if definition.columns == "auto":
            parts.append("Columns: one for each task, data set, protocol and selection that the rows hold.\n")
        else:
            labels = [cell(column.label) for column in definition.columns]
            parts.append(f"Columns: {'; '.join(labels)}.\n")
    parts += [
        "## A table of your own\n",
        "The keys of a definition. `results/definitions/` holds examples; a filter is a mapping from a "
        "[column](columns.md) to a value or a list of values.\n",
        _editors("table"),
    ]
    made = schema("table")
    titles = {
        "Definition": "The file",
        "ColumnDefinition": "A column",
        "RowDefinition": "A row",
        "Quantity": "quantity",
    }
    for model in sorted(models("table"), key=lambda model: list(titles).index(model.__name__)):
        parts += [f"### {titles[model.__name__]}\n", f"{summary(model)}\n"]
        parts.append(_keys(model, made["$defs"].get(model.__name__, made)))
    columns = [[f"`{name}`", cell(about)] for name, about in PUBLISHED_COLUMNS.items()]
    parts += [
        "## Add a published number\n",
        "Append a line to `results/published.csv`: one number of one source, with these columns in this order. What "
        "the source does not say stays empty. Any table whose filters match shows it; `make test` checks it.\n",
        table(["column", "what it holds"], columns),
    ]
    return NOTE + "\n".join(parts)


def backbones_page() -> str:
    """Every backbone by name."""
    rows = []
    for name in names():
        with torch.device("meta"):  # shapes without memory
            backbone = build(name)
        parameters = sum(parameter.numel() for parameter in backbone.parameters())
        rows.append([f"`{name}`", f"{parameters:,}", str(backbone.width), str(backbone.stride)])
    return NOTE + "\n".join(
        [
            "# Backbones\n",
            "Names for `random:NAME` and for a recipe's `backbone`. Sizes are without a head. `timm:MODEL` is any "
            "model of timm's; it needs the extra `timm`.\n",
            table(["name", "parameters", "feature width D", "stride"], rows),
        ]
    )


def _editors(name: str) -> str:
    return (
        "An editor with a YAML language server completes the keys of a file that begins with "
        f"`# yaml-language-server: $schema=PATH`; `fastmoco schema {name} --path` prints the path.\n"
    )


def _keys(model: type[BaseModel], definition: dict[str, Any]) -> str:
    said = attributes(model)
    keys: dict[tuple[str, ...], list[str]] = {}  # keys that are alike share a row
    for key, about in definition["properties"].items():
        default = "required" if key in definition.get("required", []) else _default(about)
        keys.setdefault((cell(_kind(about)), default, cell(said.get(key, ""))), []).append(f"`{key}`")
    return table(["key", "value", "default", "meaning"], [[", ".join(alike), *row] for row, alike in keys.items()])


def _default(about: dict[str, Any]) -> str:
    value = about.get("default")
    if value in (None, {}, []) or isinstance(value, dict):
        return ""
    return value_cell(value)


def _kind(about: dict[str, Any]) -> str:
    if "$ref" in about:
        return about["$ref"].rpartition("/")[2]
    if "const" in about:
        return f"`{about['const']}`"
    if "enum" in about:
        shown = [str(value) for value in about["enum"] if value is not None]
        return ", ".join(f"`{value}`" for value in shown) if len(shown) < 9 else "one of the names"
    if "anyOf" in about:
        kinds = list(dict.fromkeys(_kind(one) for one in about["anyOf"] if one.get("type") != "null"))
        return " or ".join(kinds) if len(kinds) < 4 else "a value or a list of values"
    if "prefixItems" in about:
        return f"list of {len(about['prefixItems'])}"
    kind = about.get("type", "any value")
    if kind == "array":
        return f"list of {_kind(about.get('items', {}))}"
    if kind == "object":
        inner = about.get("additionalProperties")
        return f"mapping to {_kind(inner)}" if isinstance(inner, dict) and inner else "mapping"
    return {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}.get(kind, kind)
