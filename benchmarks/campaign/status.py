"""The state of every run of a campaign, from what lies on disk and, where one is asked, from the scheduler."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.campaign.plan import Plan, PlannedRun
from benchmarks.run.execute import attempts
from benchmarks.run.lease import holder
from benchmarks.run.process import read_failure
from benchmarks.run.rundir import is_cancelled, run_dir
from pretrain.runtime.errors import InputError
from results.row import Result, read_result


@dataclass(frozen=True)
class JobState:
    """What the scheduler says of a run's newest job.

    Attributes:
        state: SLURM's word: PENDING, RUNNING, COMPLETED, CANCELLED, NODE_FAIL ...
        reason: why it is pending, or how it ended.
        restarts: how often it was queued again.
    """

    job_id: str
    state: str
    reason: str = ""
    restarts: int = 0

    @property
    def is_queued(self) -> bool:
        """Whether the job is still to come or at work."""
        return self.state in ("PENDING", "RUNNING", "REQUEUED", "SUSPENDED", "COMPLETING", "CONFIGURING", "RESIZING")


@dataclass(frozen=True)
class RunStatus:
    """A run's state in a word, and what there is to say about it.

    The words: done, running, pending (queued at the scheduler), waiting (for what it needs), failed, skipped (what it
    needs has failed), interrupted (begun, state saved, nobody at work on it), cancelled, new.
    """

    run: PlannedRun
    state: str
    detail: str = ""
    restarts: int = 0


def survey(plan: Plan, root: Path, jobs: Mapping[str, JobState] | None = None) -> list[RunStatus]:
    """The state of every run, in the plan's order. `jobs`: run id -> what the scheduler says."""
    found: dict[str, RunStatus] = {}
    for run in plan.runs:
        job = (jobs or {}).get(run.run_id)
        needs = [found[need] for need in run.needs]
        found[run.run_id] = _status(run, run_dir(root, run.run_id), job, needs)
    return list(found.values())


def _status(run: PlannedRun, directory: Path, job: JobState | None, needs: list[RunStatus]) -> RunStatus:
    begun = attempts(directory)
    restarts = max(sum(line["event"] == "start" for line in begun) - 1, job.restarts if job else 0, 0)

    def told(state: str, detail: str = "") -> RunStatus:
        return RunStatus(run, state, detail, restarts)

    if (directory / "result.json").exists():
        try:
            return told("done", main_metric(read_result(directory)))
        except InputError as error:
            return told("failed", str(error))
    who = holder(directory / "lease")
    if who is not None:
        job_name = f"job {who['slurm_job_id']}, " if who["slurm_job_id"] else ""
        return told("running", f"{job_name}{_progress(run, directory)} ({who['host']})")
    broken = [need for need in needs if need.state in ("failed", "skipped", "cancelled")]
    if job is not None and job.is_queued:
        if broken:
            return told("skipped", f"needs {broken[0].run.run_id}, which is {broken[0].state}")
        state = "running" if job.state in ("RUNNING", "COMPLETING") else "pending"
        return told(state, f"job {job.job_id}, {job.reason or job.state.lower()}")
    if is_cancelled(directory):
        return told("cancelled", f"by hand; {_progress(run, directory) if begun else 'not begun'}")
    failure = read_failure(directory)
    if failure is not None:
        return told("failed", failure["error"])
    if broken:
        return told("skipped", f"needs {broken[0].run.run_id}, which is {broken[0].state}")
    if job is not None and job.state not in ("COMPLETED", ""):
        word = "cancelled" if job.state.startswith("CANCELLED") else "interrupted"
        return told(word, f"job {job.job_id}: {job.reason or job.state.lower()}")
    if begun:
        return told("interrupted", f"state kept, {_progress(run, directory)}")
    if any(need.state != "done" for need in needs):
        return told("waiting", f"for {', '.join(need.run.run_id for need in needs if need.state != 'done')}")
    return told("new")


def main_metric(result: Result) -> str:
    """The number that stands for a run in a listing: of a pretraining its loss, of an evaluation the first it tells.

    A task puts the metric of its field, or of its data set, first.
    """
    named = [metric for metric in result.metrics if metric.name == "loss"] if result.run.kind == "pretrain" else []
    metrics = named or result.metrics
    if not metrics:
        return ""
    chosen = metrics[0]
    return f"{chosen.name} {chosen.value:.2f}{f' {chosen.unit}' if chosen.unit else ''}"


def _progress(run: PlannedRun, directory: Path) -> str:
    """Where a run's curves stand: the epoch, and the time it will still take at the pace so far."""
    last = _last_point(directory / "metrics.jsonl")
    if last is None:
        return "begun"
    words, loss = [], last.get("loss")
    epochs, epoch = run.request.settings.get("epochs"), last.get("epoch")
    if epochs and epoch:
        words.append(f"epoch {epoch:.1f} of {epochs}")
        spent_s = _spent_s(directory)
        if spent_s and epoch < epochs:
            words.append(f"{clock(spent_s * (epochs - epoch) / epoch)} left")
    else:
        words.append(f"step {last.get('step', 0)}")
    if loss is not None:
        words.append(f"loss {loss:.3g}")
    return ", ".join(words)


def _spent_s(directory: Path) -> float:
    """Seconds of work in this run up to now, over all processes that worked on it."""
    lines = attempts(directory)
    spent = sum(line.get("wall_s", 0.0) for line in lines)
    if lines and lines[-1]["event"] == "start":
        spent += max(time.time() - datetime.fromisoformat(lines[-1]["at"]).timestamp(), 0.0)
    return spent


def _last_point(path: Path) -> dict[str, float] | None:
    try:
        with path.open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(stream.tell() - 4096, 0))
            lines = stream.read().splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            point: dict[str, float] = json.loads(line)
        except json.JSONDecodeError:
            continue
        return point
    return None


def clock(seconds: float) -> str:
    """Seconds as 1:02:03."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def counts(rows: Iterable[RunStatus]) -> str:
    """ "3 done, 1 failed" in the order of a run's life."""
    states = [row.state for row in rows]
    order = ("done", "running", "pending", "waiting", "new", "interrupted", "cancelled", "failed", "skipped")
    return ", ".join(f"{states.count(state)} {state}" for state in order if state in states)
