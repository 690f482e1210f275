"""The command that does a campaign's run again by itself: what `run.json` gives for it, and tables and reports show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from benchmarks.run.request import Request
from evaluate.task import resolve_protocol
from pretrain.recipes import resolve_recipe
from pretrain.runtime.errors import InputError
from pretrain.runtime.settings import Settings, parse_sets

_NOT_SETTINGS = frozenset({"name", "source", "sources"})


def command(request: Request) -> list[str] | None:
    """`fastmoco pretrain ...` or `fastmoco evaluate ...` for a request, to be called in the campaign's root.

    It writes to a new folder there. None where no such command gives the same settings: a recipe from a file, a mapping
    as normalization, weights drawn at random from another seed than the run's.
    """
    changes = _changes(request)
    if changes is None:
        return None
    words = ["fastmoco", request.kind]
    if request.kind == "pretrain":
        words += ["--recipe", request.settings_name]
    else:
        reference = request.checkpoint
        assert reference is not None, "an evaluation has a checkpoint"
        drawn = reference.ref.startswith("random:")
        if isinstance(reference.normalization, dict) or (drawn and reference.init_seed not in (None, request.seed)):
            return None
        words += [request.task, "--checkpoint", reference.path(Path("runs") / request.run_id)]
        words += ["--label", reference.label, "--protocol", request.settings_name]
        for option, value in (("--select", reference.select), ("--normalization", reference.normalization)):
            words += [option, value] if isinstance(value, str) else []
    words += ["--data", request.data, *(["--catalog", request.catalog] if request.catalog else [])]
    for change in changes:
        words += ["--set", change]
    return [*words, "--seed", str(request.seed), "--out", f"again/{request.run_id}"]


def _changes(request: Request) -> list[str] | None:
    """What `--set` must say for the named recipe or protocol to become the request's, None when it cannot."""
    try:
        preset = _resolved(request, [])
        ours = type(preset).model_validate(request.settings)
        pairs = [
            f"{key}={_text(value)}"
            for key, (_, value) in preset.differences(ours).items()
            if key.partition(".")[0] not in _NOT_SETTINGS
        ]
        again = _resolved(request, pairs).model_dump(mode="json")
    except (InputError, ValueError):
        return None
    differing = {key for key in again if again[key] != request.settings.get(key)}
    return pairs if differing <= _NOT_SETTINGS else None


def _resolved(request: Request, pairs: list[str]) -> Settings:
    changes = parse_sets(pairs)
    if request.kind == "pretrain":
        return resolve_recipe(request.settings_name, changes)
    return resolve_protocol(request.task, request.settings_name, changes)


def _text(value: Any) -> str:
    if isinstance(value, str) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value)
