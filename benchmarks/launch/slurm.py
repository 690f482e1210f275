"""What SLURM's commands say: queue, accounting, limits. Text in, records out; no submitit here."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaign.plan import Plan
from benchmarks.campaign.status import JobState
from benchmarks.launch.jobs import JOB_PREFIX, run_hashes
from benchmarks.run.rundir import root_tag, run_dir
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_json

SUBMISSION = "submission.json"
_TIMEOUT_S = 60


@dataclass(frozen=True)
class QueuedJob:
    """A line of squeue."""

    job_id: str
    name: str
    state: str
    reason: str
    restarts: int


def is_here() -> bool:
    """Whether SLURM's commands are installed on this machine."""
    return all(shutil.which(command) for command in ("sbatch", "squeue", "scontrol", "scancel"))


def queue() -> dict[str, QueuedJob]:
    """The suite's jobs that squeue knows, by job id, whoever submitted them: a root may be shared by colleagues.

    Raises:
        InputError: the controller does not answer, in SLURM's words.
    """
    fields = "JobID:40,State:24,RestartCnt:12,Reason:64,Name:600"
    jobs = {}
    for line in _ask(["squeue", "--noheader", "--array", "-O", fields]).splitlines():
        job_id, state, restarts, reason, name = (
            line[a:b].strip() for a, b in ((0, 40), (40, 64), (64, 76), (76, 140), (140, 740))
        )
        if name.startswith(JOB_PREFIX):
            jobs[job_id] = QueuedJob(job_id, name, state, "" if reason == "None" else reason, int(restarts or 0))
    return jobs


def ended(job_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Job id -> (state, exit code) of jobs that have left the queue; from sacct, else what scontrol still remembers.

    Jobs that neither tells of are absent: a site may keep no accounts.
    """
    wanted = sorted(set(job_ids))
    if not wanted:
        return {}
    found: dict[str, tuple[str, str]] = {}
    try:
        answer = _ask(["sacct", "-X", "-n", "-P", "-j", ",".join(wanted), "-o", "JobID,State,ExitCode"])
        for line in answer.splitlines():
            job_id, state, code = line.split("|")
            found[job_id] = (state.partition(" ")[0], code)
    except InputError:
        answer = ""
    for job_id in wanted:
        if job_id not in found and not answer:
            found |= _remembered(job_id)
    return found


def job_states(plan: Plan, root: Path) -> dict[str, JobState]:
    """What SLURM says of the newest job of each run that was submitted; nothing where SLURM is not at hand."""
    submitted = {run.run_id: read_submission(run_dir(root, run.run_id)) for run in plan.runs}
    ids = {run_id: record["job_id"] for run_id, record in submitted.items() if record is not None}
    if not ids or not is_here():
        return {}
    try:
        queued = queue()
    except InputError:  # the controller is away: what lies on disk is still true
        return {}
    gone = ended(job_id for job_id in ids.values() if job_id not in queued)
    states = {}
    for run_id, job_id in ids.items():
        if job_id in queued:
            job = queued[job_id]
            states[run_id] = JobState(job_id, job.state, job.reason, job.restarts)
        elif job_id in gone:
            state, code = gone[job_id]
            states[run_id] = JobState(job_id, state, f"{state.lower()} (exit code {code})")
    return states


def queued_runs(root: Path) -> dict[str, str]:
    """End of run id -> job id, for every run of this root that a queued or running job carries in its name."""
    tag = root_tag(root)
    return {short: job.job_id for job in queue().values() for short in run_hashes(job.name, tag)}


def read_submission(directory: Path) -> dict[str, Any] | None:
    """Which job a run was last given to; None when it never was."""
    try:
        record: dict[str, Any] = json.loads((directory / SUBMISSION).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return record


def write_submission(directory: Path, record: dict[str, Any]) -> None:
    """Note which job a run was given to."""
    write_json(directory / SUBMISSION, record)


def refusal(script: str) -> str | None:
    """SLURM's own words if it would refuse this batch script, else None; nothing is submitted."""
    answer = subprocess.run(
        ["sbatch", "--test-only"], input=script, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    return None if answer.returncode == 0 else words_of(answer.stderr)


def words_of(stderr: str) -> str:
    """SLURM's error lines as one sentence, without the command's name in front."""
    fatal = [line.partition("fatal:")[2].strip() for line in stderr.splitlines() if "fatal:" in line]
    if fatal:  # what stands above is the way there
        return fatal[-1]
    lines = [line.partition("error:")[2].strip() or line.strip() for line in stderr.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines))


def is_running(job_id: str) -> bool:
    """Whether SLURM counts the job as running, which one that was cancelled no longer is."""
    try:
        return _ask(["squeue", "--noheader", "-j", job_id, "-o", "%T"]).strip() == "RUNNING"
    except InputError:
        return False


def cancel(job_ids: Iterable[str]) -> None:
    """scancel; jobs that have ended already are no error."""
    wanted = sorted(set(job_ids))
    if wanted:
        subprocess.run(["scancel", *wanted], capture_output=True, timeout=_TIMEOUT_S, check=False)


def _remembered(job_id: str) -> dict[str, tuple[str, str]]:
    try:
        answer = _ask(["scontrol", "--oneliner", "show", "job", job_id])
    except InputError:
        return {}
    fields = dict(word.partition("=")[::2] for word in answer.split() if "=" in word)
    return {job_id: (fields.get("JobState", ""), fields.get("ExitCode", ""))} if "JobState" in fields else {}


def _ask(command: list[str]) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise InputError(f"SLURM is not here: the command '{command[0]}' is not installed") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"{command[0]} has not answered within {_TIMEOUT_S} s") from None
    if answer.returncode:
        raise InputError(f"{command[0]}: {words_of(answer.stderr)}")
    return answer.stdout


def partitions() -> list[str]:
    """The partitions that sinfo names. Raises InputError, in SLURM's words, when the controller does not answer."""
    return sorted(set(_ask(["sinfo", "--noheader", "-o", "%R"]).split()))
