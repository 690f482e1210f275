"""Finished runs as one file to commit: whole results, one a line, without the traces of the machine they ran on."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pretrain.runtime.files import write_text
from results.row import Result
from results.store.answers import as_text
from results.store.reading import FoundRun, Problem, found_runs

# An absolute path inside a longer text: not after a letter, digit, dot, colon or slash (a URL, a relative path, a/b).
_EMBEDDED = re.compile(r"(?<![\w.:/~)\]-])(?:~|/(?=\w))[\w.@+-]*(?:/[\w.@+=-]+)+/?")


def write_lines(roots: Sequence[Path], out: Path) -> int:
    """Write the finished runs under `roots` to `out`, in the order of run ids; how many there are."""
    chosen: dict[str, FoundRun] = {}
    problems: list[Problem] = []
    for run in found_runs(map(Path, roots), problems):
        key = run.run.run_id
        if run.state != "done":
            continue
        if key not in chosen or _order(run) < _order(chosen[key]):
            chosen[key] = run
    lines = []
    for _, run in sorted(chosen.items()):
        value = Result(run=run.run, metrics=run.metrics).model_dump(mode="json")
        host = run.run.host
        value["run"]["host"] = None
        value = stripped(value, host)
        if correct := run.correct or as_text(Path(run.path)):
            value["correct"] = correct
        lines.append(json.dumps(value, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")
    write_text(out, "".join(lines))
    return len(lines)


def stripped(value: Any, host: str | None = None) -> Any:
    """A JSON value with each absolute path cut to its last part and each mention of `host` replaced by "HOST"."""
    if isinstance(value, dict):
        return {key: stripped(item, host) for key, item in value.items()}
    if isinstance(value, list):
        return [stripped(item, host) for item in value]
    return _stripped_text(value, host) if isinstance(value, str) else value


def _stripped_text(text: str, host: str | None) -> str:
    before, equals, after = text.rpartition("=")
    # The whole value of an argument (`--out=/a b/c`, `/a b/c`) may hold spaces; a path inside a sentence may not.
    if equals and "/" not in before and _is_absolute(after):
        text = before + equals + _last_part(after)
    elif _is_absolute(text):
        text = _last_part(text)
    else:
        text = _EMBEDDED.sub(lambda match: PurePosixPath(match.group()).name, text)
    if host:
        text = re.sub(rf"(?<![\w-]){re.escape(host)}(?![\w-])", "HOST", text)
    return text


def _is_absolute(text: str) -> bool:
    return text.startswith(("/", "~")) or bool(PureWindowsPath(text).drive and "\\" in text)


def _last_part(text: str) -> str:
    return PureWindowsPath(text).name if "\\" in text else PurePosixPath(text).name


def _order(run: FoundRun) -> tuple[str, str]:
    return run.run.ended or "~", repr(run.metrics)
