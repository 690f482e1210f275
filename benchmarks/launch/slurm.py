"""What SLURM's queue, accounts and limits say of our jobs: one squeue and one sacct, however many runs there are."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.campaign.plan import Plan
from benchmarks.campaign.status import JobState
from benchmarks.launch.ask import (
    PATIENCE_S,
    STATUS_PATIENCE_S,
    RefusedError,
    ask,
    ask_cached,
    forget_answers,
)
from benchmarks.launch.ledger import MARK, Ledger, Place
from benchmarks.run.rundir import root_tag
from pretrain.runtime.errors import InputError

_QUEUE = ["squeue", "--noheader", "--array", "-O"]
_FIELDS = (("JobArrayID", 40), ("State", 24), ("RestartCnt", 12), ("Reason", 64), ("Comment", 256), ("Name", 256))
_QUEUE.append(",".join(f"{name}:{width}" for name, width in _FIELDS))
_DEFAULT_MAX_ARRAY = 1001
_MEGABYTES = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0**2}


@dataclass(frozen=True)
class QueuedJob:
    """A line of squeue: a job, or one element of an array (`job_id` is then 12_3)."""

    job_id: str
    state: str
    reason: str
    restarts: int
    words: str = ""


@dataclass(frozen=True)
class EndedJob:
    """A job that has left the queue. `elapsed_s` and `mem_gb` (asked for) are None where nobody tells."""

    state: str
    code: str = ""
    node: str = ""
    elapsed_s: int | None = None
    mem_gb: float | None = None


def is_here() -> bool:
    """Whether SLURM's commands are installed on this machine."""
    return all(shutil.which(command) for command in ("sbatch", "squeue", "scontrol", "scancel"))


def queue(*, newer_than: float | None = None, patience_s: float | None = None) -> dict[str, QueuedJob]:
    """Everything that squeue knows, by job id, whoever submitted it: a root may be shared by colleagues.

    Args:
        newer_than: a kept answer will do if it is from after this time; without it SLURM is asked.

    Raises:
        UnreachableError, RefusedError: in SLURM's words.
    """
    if newer_than is None:
        answer = ask(_QUEUE, patience_s=patience_s)
    else:
        answer = ask_cached(
            _QUEUE, patience_s=STATUS_PATIENCE_S if patience_s is None else patience_s, newer_than=newer_than
        )
    jobs = {}
    for line in answer.splitlines():
        parts, at = [], 0
        for _, width in _FIELDS[:4]:
            parts.append(line[at : at + width].strip())
            at += width
        job_id, state, restarts, reason = parts
        if job_id:
            count = int(restarts) if restarts.isdigit() else 0
            jobs[job_id] = QueuedJob(job_id, state, "" if reason == "None" else reason, count, line[at:].strip())
    return jobs


def queued_runs(root: Path, ledger: Ledger, jobs: Mapping[str, QueuedJob]) -> dict[str, str]:
    """End of run id -> job id, for every run of this root that stands in the queue, by its mark or its job's id.

    A job whose id nobody had noted, since its submission was cut off, is found by its mark and noted in `ledger`.
    """
    tag = root_tag(root)
    by_main = {each.job_id: each for each in ledger.submissions.values() if each.job_id is not None}
    found = {}
    for job in jobs.values():
        main, _, index = job.job_id.partition("_")
        mark = MARK.search(job.words)
        submission = by_main.get(main)
        if submission is None and mark is not None and mark["tag"] == tag:
            submission = ledger.submissions.get(mark["id"])
            if submission is not None:
                submission.job_id, submission.refused = main, None
                by_main[main] = submission
        if submission is None or submission.kind != "runs" or not (index.isdigit() or index == ""):
            continue
        if mark is not None and mark["tag"] != tag:  # SLURM counts job ids anew after a reinstallation
            continue
        for short in submission.elements.get(int(index or 0), ()):
            found[short] = job.job_id
    return found


def job_with_mark(mark: str, jobs: Mapping[str, QueuedJob]) -> str | None:
    """The main id of the job that bears a mark, if it is in the queue."""
    return next((job.job_id.partition("_")[0] for job in jobs.values() if mark in job.words), None)


def ended(
    job_ids: Iterable[str], *, patience_s: float = STATUS_PATIENCE_S, newer_than: float = 0.0
) -> dict[str, EndedJob]:
    """What became of jobs that have left the queue; from sacct, else what scontrol still remembers.

    Jobs that neither tells of are absent: a site may keep no accounts.
    """
    wanted = set(job_ids)
    if not wanted:
        return {}
    mains = sorted({job_id.partition("_")[0] for job_id in wanted})
    found: dict[str, EndedJob] = {}
    if shutil.which("sacct"):
        command = ["sacct", "-X", "-n", "-P", "-o", "JobID,State,ExitCode,NodeList,ElapsedRaw,ReqMem"]
        for main in mains:
            command += ["-j", main]
        try:
            for line in ask_cached(command, patience_s=patience_s, newer_than=newer_than).splitlines():
                fields = line.split("|")
                if len(fields) >= 6 and fields[0] in wanted:
                    found[fields[0]] = _from_accounts(*fields[1:6])
        except InputError:
            pass
    if not found:
        found = {job_id: job for job_id, job in _remembered(mains).items() if job_id in wanted}
    return found


def job_states(plan: Plan, root: Path) -> tuple[dict[str, JobState], str]:
    """What SLURM says of the newest job of each run that was submitted, and why it says nothing, if it does not.

    Nothing is asked where nothing was submitted, or where SLURM is not at hand.
    """
    ledger = Ledger.read(root)
    places = ledger.places()
    mine = {run.run_id: places[short] for run in plan.runs if (short := run.request.short()) in places}
    if not mine or not is_here():
        return {}, ""
    since = max(place.submission.at for place in mine.values())
    try:
        queued = queue(newer_than=since)
    except InputError as error:  # what lies on disk is still true
        return {}, str(error)
    by_run = queued_runs(root, ledger, queued)
    open_runs = {run_id: place for run_id, place in mine.items() if run_id[-12:] not in by_run}
    gone = ended(_unfinished(root, open_runs), newer_than=since)
    states = {}
    for run_id, place in mine.items():
        job = queued.get(by_run.get(run_id[-12:], ""))
        if job is not None:
            states[run_id] = JobState(job.job_id, job.state, job.reason, job.restarts)
        elif place.job_id in gone:
            end = gone[place.job_id]
            told = (
                f"{end.state.lower().replace('_', ' ')} (exit code {end.code}{f', on {end.node}' if end.node else ''})"
            )
            states[run_id] = JobState(place.job_id, end.state, told)
    return states, ""


def _unfinished(root: Path, places: Mapping[str, Place]) -> list[str]:
    # What is done needs no accounts: its result tells.
    return [
        place.job_id
        for run_id, place in places.items()
        if place.job_id is not None and not (root / "runs" / run_id / "result.json").exists()
    ]


def max_array_size() -> int:
    """One more than the largest index of an array that the controller takes."""
    try:
        answer = ask(["scontrol", "show", "config"])
    except RefusedError:
        return _DEFAULT_MAX_ARRAY
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer, re.MULTILINE)
    return int(found[1]) if found else _DEFAULT_MAX_ARRAY


def is_running(job_id: str) -> bool:
    """Whether SLURM counts the job as running, which one that was cancelled no longer is."""
    try:
        return ask(["squeue", "--noheader", "-j", job_id, "-o", "%T"], patience_s=60).strip() == "RUNNING"
    except InputError:
        return False


def cancel(job_ids: Iterable[str]) -> None:
    """scancel, a few hundred at a time; jobs that have ended already are no error."""
    wanted = sorted(set(job_ids))
    for start in range(0, len(wanted), 500):
        try:
            ask(["scancel", *wanted[start : start + 500]], patience_s=min(PATIENCE_S, 60))
        except RefusedError:  # of a job that has ended meanwhile it complains
            continue
    forget_answers()


def partitions() -> list[str]:
    """The partitions that sinfo names. Raises InputError, in SLURM's words, when the controller does not answer."""
    return sorted(set(ask(["sinfo", "--noheader", "-o", "%R"], patience_s=10).split()))


def _from_accounts(state: str, code: str, node: str, elapsed: str, memory: str) -> EndedJob:
    seconds = int(elapsed) if elapsed.isdigit() else None
    return EndedJob(state.partition(" ")[0], code, "" if node == "None assigned" else node, seconds, _gigabytes(memory))


def _gigabytes(text: str) -> float | None:
    """sacct's ReqMem: 4000M, 4Gn (a node), 2Gc (a core: not known how many)."""
    found = re.fullmatch(r"([\d.]+)([KMGT])n?", text)
    value = float(found[1]) * _MEGABYTES[found[2]] / 1024 if found else 0.0
    return value or None


def _remembered(mains: list[str]) -> dict[str, EndedJob]:
    """Main ids -> what the controller has not forgotten yet, in one call."""
    command = ["scontrol", "--oneliner", "show", "job", *(mains if len(mains) == 1 else ())]
    try:
        answer = ask_cached(command, patience_s=min(STATUS_PATIENCE_S, 10.0))
    except InputError:
        return {}
    jobs = {}
    for line in answer.splitlines():
        fields = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
        if "JobState" not in fields:
            continue
        job_id = fields.get("JobId", "")
        if fields.get("ArrayTaskId", "").isdigit():
            job_id = f"{fields['ArrayJobId']}_{fields['ArrayTaskId']}"
        node = fields.get("NodeList", "").replace("(null)", "")
        memory = _gigabytes(fields.get("MinMemoryNode", ""))
        jobs[job_id] = EndedJob(
            fields["JobState"], fields.get("ExitCode", ""), node, _seconds(fields.get("RunTime", "")), memory
        )
    return jobs


def _seconds(clock: str) -> int | None:
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", clock)
    if found is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
