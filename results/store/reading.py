"""From files to runs: what is a run's directory, what is a whole result, and what is wrong with the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from pretrain.runtime.errors import InputError
from results.row import SCHEMA, Metric, Result, Run

ProblemKind = Literal["duplicate", "half-written", "foreign", "unreadable", "failed", "unfinished"]
State = Literal["done", "failed", "unfinished"]
# What a run keeps in its directory that holds no other run: states, weights and pictures by the thousand.
_INSIDE_A_RUN = frozenset({"state", "checkpoints", "pictures", "predictions"})
M = TypeVar("M", bound=BaseModel)
_MARKS = ("result.json", "failed.json", "run.json")


@dataclass(frozen=True)
class Problem:
    """Something that was found but gives no row.

    Attributes:
        path: the file or directory.
        kind: "duplicate" (the run stands elsewhere too), "half-written", "foreign" (not ours), "unreadable", "failed"
            (the run said why) or "unfinished" (begun, no result yet).
        message: one sentence.
    """

    path: str
    kind: ProblemKind
    message: str


class FoundRun(NamedTuple):
    """A run as found: its state and, when it is done, its metrics. `path` is its directory or JSON-lines file.

    `correct`: of a line of a JSON-lines file, the answers it holds.
    """

    run: Run
    metrics: list[Metric]
    state: State
    error: str | None
    path: str
    correct: str | None = None


class Collected(Result):
    """A line of a JSON-lines file: a result and which test samples the run got right (`results.store.answers`)."""

    correct: str | None = None


class _Failure(BaseModel):
    """The content of `failed.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    error: str
    exit_code: int | None = None


class _Refused(Exception):  # noqa: N818 - carries a problem, is never shown
    """The file cannot be taken; `problem` says why."""

    def __init__(self, path: str, kind: ProblemKind, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(path, kind, message)


def found_runs(roots: Iterable[Path], problems: list[Problem]) -> Iterator[FoundRun]:
    """Every run under directories and in JSON-lines files, in the order of roots and names.

    Raises:
        InputError: no such root, or a file of another kind.
    """
    seen: set[str] = set()
    for root in roots:
        if root.is_dir():
            for directory, marks in run_directories(str(root), problems, seen):
                run = read_directory(directory, marks, problems)
                if run is not None:
                    yield run
        elif not root.exists():
            raise InputError(f"no directory or file at {root}")
        elif root.suffix != ".jsonl":
            raise InputError(f"{root} is none of these: a directory of runs, a .jsonl file of results, a snapshot")
        elif (real := os.path.realpath(root)) not in seen:
            seen.add(real)
            yield from read_lines(str(root), problems)


def run_directories(root: str, problems: list[Problem], seen: set[str]) -> Iterator[tuple[str, set[str]]]:
    """Every run's directory under `root`, in the order of names, with which of its three files are there.

    Symbolic links to directories are not followed; a directory already in `seen` (roots may overlap) is passed over.
    """
    pending = [os.path.realpath(root)]
    while pending:
        directory = pending.pop()
        if directory in seen:
            continue
        seen.add(directory)
        try:
            with os.scandir(directory) as scan:
                entries = list(scan)
            folders, marks = [], set()
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
                elif entry.name in _MARKS:
                    marks.add(entry.name)
        except OSError as error:
            problems.append(Problem(directory, "unreadable", f"cannot be listed: {error.strerror}"))
            continue
        folders.sort(reverse=True)
        pending.extend(f"{directory}/{name}" for name in folders if not (marks and name in _INSIDE_A_RUN))
        if marks:
            yield directory, marks


def read_directory(directory: str, marks: set[str], problems: list[Problem]) -> FoundRun | None:
    """The run of one directory; None, with a problem noted, when no file of it can be taken."""
    if "result.json" in marks:
        try:
            result = _parse(Result, f"{directory}/result.json")
            return FoundRun(result.run, result.metrics, "done", None, directory)
        except FileNotFoundError:
            pass
        except _Refused as refused:
            problems.append(refused.problem)
            if refused.problem.kind == "foreign":
                return None
    error = None
    if "failed.json" in marks:
        try:
            error = _parse(_Failure, f"{directory}/failed.json").error
        except FileNotFoundError:
            pass
        except _Refused as refused:
            problems.append(refused.problem)
    try:
        run = _parse(Run, f"{directory}/run.json")
    except FileNotFoundError:
        if "run.json" not in marks and "failed.json" in marks:
            problems.append(Problem(directory, "foreign", "failed.json without a run.json beside it"))
        return None
    except _Refused as refused:
        problems.append(refused.problem)
        return None
    state: Literal["failed", "unfinished"] = "unfinished" if error is None else "failed"
    # Between the listing and now the run may have ended; only what was seen then is told.
    problems.append(Problem(directory, state, error or "begun, no result yet"))
    return FoundRun(run, [], state, error, directory)


def read_lines(path: str, problems: list[Problem]) -> Iterator[FoundRun]:
    """The runs of a JSON-lines file, one `Result` a line; a line that is none is a problem that names it."""
    with Path(path).open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                result = _validated(Collected, line, f"{path}:{number}")
            except _Refused as refused:
                problems.append(refused.problem)
                continue
            yield FoundRun(result.run, result.metrics, "done", None, path, result.correct)


def _parse(model: type[M], path: str) -> M:
    # Neither a Path nor a file object: for 100 000 files each of them costs half a second.
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            content = b""
            while part := os.read(handle, 1 << 15):
                content += part
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _Refused(path, "unreadable", f"cannot be read: {error.strerror}") from None
    return _validated(model, content, path)


def _validated(model: type[M], content: bytes, path: str) -> M:
    try:
        value = model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "json_invalid":
            raise _Refused(path, "half-written", f"not whole JSON ({first['msg']})") from None
        version = _schema_version(content)
        if version not in (None, SCHEMA):
            raise _Refused(path, "foreign", f"schema {version}, this version reads {SCHEMA}") from None
        where = ".".join(str(part) for part in first["loc"]) or "value"
        raise _Refused(path, "foreign", f"not ours: {where}: {first['msg']}") from None
    run = value if isinstance(value, Run) else getattr(value, "run", None)
    if run is not None and run.schema_version != SCHEMA:
        raise _Refused(path, "foreign", f"schema {run.schema_version}, this version reads {SCHEMA}")
    return value


def _schema_version(content: bytes) -> int | None:
    value = json.loads(content)
    run = value.get("run", value) if isinstance(value, dict) else None
    version = run.get("schema_version") if isinstance(run, dict) else None
    return version if isinstance(version, int) else None
