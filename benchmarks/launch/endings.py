"""Why a run's jobs ended before it was done, what follows from that, and which nodes are to be left out.

RUN/endings.jsonl has a line for every such job: memory, the node, the time limit, somebody's hand, or the run itself.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from benchmarks.campaign.spec import Resources, Retry
from benchmarks.launch.slurm import EndedJob
from benchmarks.run.execute import attempts
from benchmarks.run.process import read_failure

ENDINGS = "endings.jsonl"
Kind = Literal["out_of_memory", "node", "timeout", "stopped", "failed"]
# A job that fails sooner than this may be its node's fault; so many of them on one node, and it is.
_QUICK_S = 120
_QUICK_FAILURES = 2
_MEMORY_OPTIONS = ("mem", "mem-per-cpu", "mem-per-gpu")
_LOST = ("NODE_FAIL", "BOOT_FAIL", "LAUNCH_FAILED", "RECONFIG_FAIL")


@dataclass(frozen=True)
class Ending:
    """How one job ended. `saved`: of a timeout, whether the run had saved something new; `mem_gb` was asked for."""

    job_id: str
    kind: Kind
    node: str = ""
    seconds: int | None = None
    mem_gb: float | None = None
    words: str = ""
    saved: bool = False
    exit_code: int | None = None

    @property
    def quick_failure(self) -> bool:
        """Whether its node may be to blame. Wrong input (exit code 2) fails quickly everywhere."""
        failed = self.kind == "node" or (self.kind == "failed" and self.exit_code != 2)
        return failed and bool(self.node) and self.seconds is not None and self.seconds < _QUICK_S


def note(directory: Path, ending: Ending) -> None:
    """Add a line to the run's endings."""
    Path(directory).mkdir(parents=True, exist_ok=True)
    with (Path(directory) / ENDINGS).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(ending)) + "\n")


def endings(directory: Path) -> list[Ending]:
    """The run's endings, oldest first."""
    try:
        text = (Path(directory) / ENDINGS).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    found = []
    for line in text.splitlines():
        try:
            found.append(Ending(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):  # a line that a kill cut short
            continue
    return found


def judge(directory: Path, job_id: str, job: EndedJob | None, since: float) -> Ending:
    """Why a job ended whose run is not done. `since`: when it was submitted, in seconds of the epoch."""
    failure = read_failure(directory)
    state, node = (job.state, job.node) if job else ("", "")
    seconds, mem_gb = (job.elapsed_s, job.mem_gb) if job else (None, None)
    begun = [line for line in attempts(directory) if line["event"] == "start" and _epoch(line) >= since - 1]
    node = node or str(begun[-1].get("node", "") if begun else "")
    code = failure["exit_code"] if failure else None

    def told(kind: Kind, words: str) -> Ending:
        return Ending(job_id, kind, node, seconds, mem_gb, words, exit_code=code)

    if state == "OUT_OF_MEMORY" or (failure and failure.get("kind") == "out_of_memory"):
        return told("out_of_memory", failure["error"] if failure else "SLURM killed it for its memory")
    if failure:
        return told("timeout" if failure.get("kind") == "timeout" else "failed", failure["error"])
    if state in _LOST:
        return told("node", state.lower().replace("_", " "))
    if state in ("TIMEOUT", "DEADLINE"):
        return told("timeout", "the time limit came before the run had saved")
    if state == "FAILED" and not begun:
        return told("node", f"the job ended with exit code {job.code if job else ''} before the run began")
    return told("stopped", state.lower() or "nobody tells how")


def timeouts_in_vain(directory: Path) -> int:
    """How many of the newest endings in a row are time limits that came before anything new was saved."""
    count = 0
    for ending in reversed(endings(directory)):
        if ending.kind != "timeout" or ending.saved:
            break
        count += 1
    return count


def worth_another(history: list[Ending], retry: Retry, resources: Resources, bad: Iterable[str] = ()) -> bool:
    """Whether a run whose newest job ended like this is submitted again without anybody asking for it."""
    if not history:
        return True
    last = history[-1]
    if last.kind == "stopped":
        return True
    if last.kind == "out_of_memory":
        known = resources.mem_gb is not None or any(ending.mem_gb for ending in history)
        return known and _count(history, "out_of_memory") <= retry.oom.max
    if last.kind == "timeout":
        in_vain = 0
        for ending in reversed(history):
            if ending.kind != "timeout" or ending.saved:
                break
            in_vain += 1
        return in_vain <= retry.timeout.max
    on_bad = last.kind == "node" or (last.quick_failure and last.node in set(bad))
    return on_bad and sum(ending.kind == "node" or ending.quick_failure for ending in history) <= retry.node.max


def with_lessons(resources: Resources, history: list[Ending], retry: Retry, bad: Iterable[str]) -> Resources:
    """What the next job asks for: more memory after it ran out, and not the bad nodes."""
    changes: dict[str, Any] = {}
    times = min(_count(history, "out_of_memory"), retry.oom.max)
    base = resources.mem_gb or next((e.mem_gb for e in history if e.kind == "out_of_memory" and e.mem_gb), None)
    if times and base:
        changes["mem_gb"] = base * retry.oom.mem_factor**times
        if resources.options:  # sbatch's own spelling would win over it
            kept = {key: value for key, value in resources.options.items() if key not in _MEMORY_OPTIONS}
            changes["options"] = kept
    given = [node for node in (resources.exclude or "").split(",") if node]
    left_out = [*given, *(node for node in bad if node not in given)]
    if left_out:
        changes["exclude"] = ",".join(left_out)
    return resources.model_copy(update=changes)


def bad_nodes(directories: Iterable[Path]) -> dict[str, str]:
    """Node -> why it is left out: jobs fail on it quickly, while others have done a run.

    A run that fails quickly on several nodes speaks for itself and not against them.
    """
    failures: dict[str, list[tuple[str, Ending]]] = defaultdict(list)
    nodes_of: dict[str, set[str]] = defaultdict(set)
    directories = list(directories)
    for directory in directories:
        for ending in endings(directory):
            if ending.quick_failure:
                failures[ending.node].append((directory.name, ending))
                nodes_of[directory.name].add(ending.node)
    suspects = {
        node: [ending for name, ending in found if ending.kind == "node" or len(nodes_of[name]) == 1]
        for node, found in failures.items()
    }
    suspects = {node: found for node, found in suspects.items() if len(found) >= _QUICK_FAILURES}
    if not suspects:
        return {}
    good = {
        str(line.get("node", ""))
        for directory in directories
        for line in attempts(directory)
        if line["event"] == "done" and line.get("node")
    }
    return {
        node: f"{len(found)} jobs failed on it quickly (the last: {found[-1].words})"
        for node, found in sorted(suspects.items())
        if node not in good and good
    }


def tried(history: Iterable[Ending]) -> list[str]:
    """A line for each job of a run that ended before the run was done."""
    lines = []
    for ending in history:
        where = f" on {ending.node}" if ending.node else ""
        memory = f", {ending.mem_gb:.3g} GB asked for" if ending.mem_gb and ending.kind == "out_of_memory" else ""
        lines.append(f"job {ending.job_id}{where}: {ending.kind.replace('_', ' ')}{memory} ({ending.words})")
    return lines


def _count(history: list[Ending], kind: Kind) -> int:
    return sum(ending.kind == kind for ending in history)


def _epoch(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["at"]).timestamp()
