"""Which runs today's code would do otherwise: their recipe or protocol, as it was resolved then and as it is now.

A run's settings are resolved again from the name and the `--set` words of its command and held against what it was run
with, as run ids hold them: without prose, and without fields that were added later and say what was done before. What
was set of a run whose command does not tell is unknown; it is stale where its name is gone or where today's model adds
or refuses fields.
"""

from __future__ import annotations

import functools
import itertools
import json
import shlex
from typing import Any

from pydantic import ValidationError

from benchmarks.run.request import LEFT_OUT
from evaluate.task import resolve_protocol
from pretrain.recipes import resolve_recipe
from pretrain.runtime.errors import InputError
from pretrain.runtime.settings import Settings, parse_sets
from results.store.lookup import records
from results.store.store import Store


def stale(store: Store) -> dict[str, str]:
    """Run id -> in words what differs, of every finished run that a plan would give another id today.

    An evaluation of weights from a pretraining that is stale is stale with it.
    """
    found: dict[str, str] = {}
    runs = [run for run in records(store.runs) if run["state"] == "done"]
    for run in sorted(runs, key=lambda run: run["kind"] != "pretrain"):
        why = _why(run["kind"], run["task"], run["protocol"], run["protocol_values"] or "{}", run["command"] or "")
        made_by = (run["checkpoint_ref"] or "").removeprefix("run:")
        if why is None and made_by in found:
            why = f"its weights: {found[made_by]}"
        if why is not None:
            found[run["run_id"]] = why
    return found


@functools.lru_cache(maxsize=4096)
def _why(kind: str, task: str, name: str, values_text: str, command: str) -> str | None:
    values = json.loads(values_text)
    word = "recipe" if kind == "pretrain" else f"protocol of {task}"
    changes = _changes(command)
    try:
        today = _resolved(kind, task, name, changes or {})
    except InputError as error:
        if changes is None or name not in str(error):
            return f"{word} {name}: {error}"
        # A recipe of somebody's file is not here to be read again.
        return None if name.endswith((".yaml", ".yml")) else f"{word} {name}: {error}"
    if changes is None:
        try:
            today = type(today).model_validate(values)
        except ValidationError as error:
            fields = ", ".join(sorted({".".join(map(str, one["loc"])) for one in error.errors()}))
            return f"{word} {name} takes other fields now: {fields}"
    then, now = (_flat(_identity(type(today), one, kind)) for one in (values, today.model_dump(mode="json")))
    differing = [key for key in dict.fromkeys([*then, *now]) if then.get(key, _GONE) != now.get(key, _GONE)]
    if not differing:
        return None
    shown = [f"{key} {_text(then, key)} then, {_text(now, key)} now" for key in differing[:3]]
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    return f"{word} {name}: {'; '.join(shown)}{more}"


_GONE = object()


def _text(values: dict[str, Any], key: str) -> str:
    return "nothing" if key not in values else json.dumps(values[key])


def _changes(command: str) -> dict[str, str] | None:
    """What a run's command set; None where it is no command of `fastmoco`'s."""
    words = shlex.split(command)
    if len(words) < 2 or words[0] != "fastmoco" or words[1] not in ("pretrain", "evaluate"):
        return None
    pairs = [after for word, after in itertools.pairwise(words) if word == "--set"]
    pairs += [word.removeprefix("--set=") for word in words if word.startswith("--set=")]
    try:
        return dict(parse_sets(pairs))
    except InputError:
        return None


def _resolved(kind: str, task: str, name: str, changes: dict[str, str]) -> Settings:
    return resolve_recipe(name, changes) if kind == "pretrain" else resolve_protocol(task, name, changes)


def _identity(model: type[Settings], values: dict[str, Any], kind: str) -> dict[str, Any]:
    return {key: value for key, value in model.identity_of(values).items() if key not in LEFT_OUT[kind]}


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict) or not values:
        return {prefix: values}
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return found
