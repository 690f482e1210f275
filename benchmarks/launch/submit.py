"""Campaigns on SLURM through submitit: the whole graph is submitted at once, and what is queued is not queued again."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import SlurmExecutor

from benchmarks.campaign.opened import Campaign
from benchmarks.campaign.plan import PlannedRun
from benchmarks.campaign.prepared import prepare
from benchmarks.campaign.sites import resources_of
from benchmarks.campaign.spec import Resources
from benchmarks.campaign.status import counts, survey
from benchmarks.launch import slurm
from benchmarks.launch.jobs import JOB_PREFIX, Job, group
from benchmarks.run.lease import LeaseHeldError, lease
from benchmarks.run.process import HELD, LOG, forget_ending, note_crash, start_worker, was_interrupted
from benchmarks.run.rundir import campaign_dir, is_cancelled, is_done, root_tag, run_dir
from benchmarks.start import python_command
from pretrain.runtime.errors import InputError
from pretrain.runtime.interrupt import StopRequest, stop_request

log = logging.getLogger("fastmoco")

# Time limits a job may reach: a run of weeks on a partition of hours. Each time it goes on where it was.
_MAX_TIMEOUTS = 1000
# Sites give minutes between the SIGTERM of a preemption and the SIGKILL.
_LONGEST_GRACE_S = 1800
_WATCH_S = float(os.environ.get("FASTMOCO_WATCH_S", "30"))
# States of a run that nobody works on and no job stands for, though it is not done.
_STOPPED = {"interrupted", "cancelled", "waiting", "new"}


class RunJob:
    """What a SLURM job does: its runs one after the other, each in a worker process. Pickled by submitit.

    On SIGUSR2 (time limit near, or a site's preemption) the worker saves, then submitit queues the job again; runs that
    are done stay done. On SIGTERM (`scancel`, preemption) it saves; whether the job comes back is then SLURM's to say.
    """

    def __init__(self, run_dirs: list[str]) -> None:
        self.run_dirs = run_dirs

    def __call__(self) -> str:
        """Do the runs; fails, after all were tried, if one of them failed."""
        rank = int(os.environ.get("SLURM_PROCID", "0"))
        failed = []
        with stop_request() as stop:
            for directory in map(Path, self.run_dirs):
                if stop.requested:
                    break
                if not (directory / "result.json").exists() and not self._run(directory, rank, stop):
                    failed.append(directory.name)
        # submitit's own handler has been called by now: after SIGUSR2 rank 0 is queued again and never comes here.
        if stop.requested:
            if rank == 0 and stop.signum == signal.SIGTERM:
                _wait_while_preempted()
            raise SystemExit(0 if rank else 128 + (stop.signum or signal.SIGTERM))
        if failed:
            raise RuntimeError(f"failed: {', '.join(failed)}")
        return "done"

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """The same again: a worker finds its own state."""
        return submitit.helpers.DelayedSubmission(self)

    def _run(self, directory: Path, rank: int, stop: StopRequest) -> bool:
        worker = start_worker(directory, log=LOG if rank == 0 else f"log.rank{rank}.txt")
        asked = False
        while (code := worker.poll()) is None:
            if stop.requested and not asked:
                worker.send_signal(signal.SIGTERM)
                asked = True
            time.sleep(0.1)
        if rank == 0 and code not in (0, HELD) and not was_interrupted(code):
            note_crash(directory, code)
        return code == 0 or stop.requested or was_interrupted(code)


def _wait_while_preempted() -> None:
    """Stay until SLURM takes the job away, if that is what the SIGTERM announced.

    A job that leaves by itself within its grace time counts as failed and is not queued again. One that was cancelled
    is no longer RUNNING, and leaves at once.
    """
    deadline = time.monotonic() + _LONGEST_GRACE_S
    while slurm.is_running(os.environ["SLURM_JOB_ID"]) and time.monotonic() < deadline:
        time.sleep(1)


class WriteTables:
    """The campaign's last job: its tables, once every run has ended."""

    def __init__(self, command: list[str]) -> None:
        self.command = command

    def __call__(self) -> None:
        """Run `fastmoco campaign tables`."""
        submitit.helpers.CommandFunction(self.command)()


def submit_campaign(campaign: Campaign, *, watch: bool) -> None:
    """Submit what is neither done nor queued. With `watch` stay, and submit again what was stopped from outside.

    Raises:
        InputError: SLURM is not here or refuses a job, in its own words; then nothing of this call stays submitted.
    """
    if not slurm.is_here():
        raise InputError("SLURM is not here: sbatch, squeue, scontrol or scancel is not installed; use --cluster local")
    prepare(campaign.root, campaign.plan)
    failed_before = {row.run.run_id for row in survey(campaign.plan, campaign.root) if row.state == "failed"}
    retried = submit_missing(campaign, leave_out=set())
    while watch:
        jobs = slurm.job_states(campaign.plan, campaign.root)
        rows = survey(campaign.plan, campaign.root, jobs)
        log.info("%s", counts(rows))
        failed = {row.run.run_id for row in rows if row.state == "failed"}
        by_hand = {run.run_id for run in campaign.plan.runs if is_cancelled(run_dir(campaign.root, run.run_id))}
        states = {row.state for row in rows if row.run.run_id not in by_hand}
        if not states & {"running", "pending", *_STOPPED}:
            return
        if states & _STOPPED:
            submit_missing(campaign, leave_out=by_hand | failed - (failed_before - retried))
        time.sleep(_WATCH_S)


def submit_missing(campaign: Campaign, *, leave_out: set[str]) -> set[str]:
    """Submit the runs that are neither done, queued nor left out (nor need one that is); their ids.

    The lease on the root makes two that submit at the same moment take turns; the second finds the first's jobs in the
    queue by their names.
    """
    root = campaign.root
    with _submitting(root):
        queued = slurm.queued_runs(root)
        missing: list[PlannedRun] = []
        out = set(leave_out)
        for run in campaign.plan.runs:
            if set(run.needs) & out:
                out.add(run.run_id)
            if run.run_id in out or is_done(root, run.run_id) or run.request.short() in queued:
                continue
            missing.append(run)
        if not missing:
            log.info(
                "nothing to submit: %s", counts(survey(campaign.plan, root, slurm.job_states(campaign.plan, root)))
            )
            return set()
        jobs = group(missing, campaign.launch)
        _ask_whether_they_fit(campaign, jobs)
        for run in missing:
            forget_ending(run_dir(root, run.run_id))
        _submit(campaign, jobs, queued)
        log.info("submitted %d runs in %d jobs", len(missing), len(jobs))
    return {run.run_id for run in missing}


def cancel_jobs(campaign: Campaign, runs: list[PlannedRun]) -> Iterator[str]:
    """Cancel the jobs of the runs, and say which. A job that several runs share ends for all of them."""
    queued = slurm.queued_runs(campaign.root)
    ids = {queued[run.request.short()] for run in runs if run.request.short() in queued}
    slurm.cancel(ids)
    for run in runs:
        if run.request.short() in queued:
            yield f"{run.run_id}: cancelled job {queued[run.request.short()]}"


def parameters(resources: Resources, name: str, dependency: str | None) -> dict[str, Any]:
    """What submitit's SLURM executor is told for one job."""
    extra: dict[str, Any] = {"requeue": True, **(resources.options or {})}
    if dependency is not None:
        # Without this a job whose need has failed would stay pending for ever.
        extra |= {"dependency": dependency, "kill-on-invalid-dep": "yes"}
    if resources.mem_gb is not None:
        extra["mem"] = f"{round(resources.mem_gb * 1024)}M"
    values: dict[str, Any] = {
        "job_name": name,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks_per_node,
        "gpus_per_node": resources.gpus_per_node or None,
        "cpus_per_task": resources.cpus_per_task,
        "time": resources.timeout_min,
        "signal_delay_s": resources.signal_delay_s,
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "exclude": resources.exclude,
        "setup": list(resources.setup) if resources.setup else None,
        "additional_parameters": extra,
        # SLURM 22.05 and later no longer hand a job's --cpus-per-task on to srun.
        "srun_args": [f"--cpus-per-task={resources.cpus_per_task}"] if resources.cpus_per_task else None,
    }
    return {key: value for key, value in values.items() if value is not None}


def _executor(campaign: Campaign, resources: Resources, name: str, dependency: str | None) -> SlurmExecutor:
    # One a job: submitit's executor waits 0.2 s between its submissions, which a controller does not need of us.
    folder = campaign_dir(campaign.root, campaign.plan.name) / "jobs"
    # -P: a user's own evaluate.py in the folder of the submission is no package of ours.
    python = f"{shlex.quote(sys.executable)} -P"
    executor = SlurmExecutor(folder=folder / "%j", max_num_timeout=_MAX_TIMEOUTS, python=python)
    executor.update_parameters(**parameters(resources, name, dependency))
    return executor


def _ask_whether_they_fit(campaign: Campaign, jobs: list[Job]) -> None:
    """Let SLURM judge each kind of job before the first is submitted. Raises InputError in its words."""
    asked = set()
    tag = root_tag(campaign.root)
    for job in jobs:
        key = job.resources.model_dump_json()
        if key in asked:
            continue
        asked.add(key)
        executor = _executor(campaign, job.resources, job.name(tag), None)
        script = executor._make_submission_file_text("true", "test")
        refused = slurm.refusal(script)
        if refused is not None:
            raise InputError(f"SLURM refuses the job of {job.runs[0].run_id}: {refused}")


def _submit(campaign: Campaign, jobs: list[Job], queued: dict[str, str]) -> None:
    job_of_run = {
        run.run_id: queued[run.request.short()] for run in campaign.plan.runs if run.request.short() in queued
    }
    tag = root_tag(campaign.root)
    submitted: list[str] = []
    try:
        lanes = _lanes_in_use(campaign, job_of_run) if campaign.launch.max_running else {}
        for job in jobs:
            after = [f"afterok:{job_of_run[need]}" for need in job.needs if need in job_of_run]
            if job.lane is not None and job.lane in lanes and f"afterok:{lanes[job.lane]}" not in after:
                after.append(f"afterany:{lanes[job.lane]}")
            directories = [str(run_dir(campaign.root, run.run_id)) for run in job.runs]
            executor = _executor(campaign, job.resources, job.name(tag), ",".join(after) or None)
            job.job_id = executor.submit(RunJob(directories)).job_id
            submitted.append(job.job_id)
            if job.lane is not None:
                lanes[job.lane] = job.job_id
            for run in job.runs:
                job_of_run[run.run_id] = job.job_id
                record = {
                    "job_id": job.job_id,
                    "job_name": job.name(tag),
                    "lane": job.lane,
                    "at": datetime.now(UTC).isoformat(timespec="seconds"),
                }
                slurm.write_submission(run_dir(campaign.root, run.run_id), record)
        submitted.append(_submit_tables(campaign, sorted(set(job_of_run.values()))))
    except (FailedJobError, FailedSubmissionError, OSError) as error:
        slurm.cancel(submitted)
        raise InputError(
            f"SLURM refuses a job, and those submitted before it are cancelled: {_last_words(error)}"
        ) from None


def _lanes_in_use(campaign: Campaign, job_of_run: dict[str, str]) -> dict[int, str]:
    """Lane -> the last job in it, of those that are queued: what comes next in the lane waits for that one."""
    last: dict[int, str] = {}
    for run_id, job_id in job_of_run.items():
        lane = (slurm.read_submission(run_dir(campaign.root, run_id)) or {}).get("lane")
        if lane is not None and int(job_id) > int(last.get(lane, "0")):
            last[lane] = job_id
    return last


def _submit_tables(campaign: Campaign, after: list[str]) -> str:
    resources = resources_of(campaign.launch, "tables", Resources())
    name = f"fastmoco-tables-{campaign.plan.name}"
    command = python_command("benchmarks.cli")
    if campaign.catalog.path is not None:
        command += ["--catalog", str(campaign.catalog.path)]
    command += ["campaign", "tables", str(campaign.file.path.absolute()), "--root", str(campaign.root)]
    assert not name.startswith(JOB_PREFIX)
    executor = _executor(campaign, resources, name, "afterany:" + ":".join(after))
    return executor.submit(WriteTables(command)).job_id


def _last_words(error: Exception) -> str:
    return slurm.words_of(str(error)) or shlex.quote(type(error).__name__)


def _submitting(root: Path) -> Any:
    try:
        return lease(root / "submitting", wait_s=600)
    except LeaseHeldError as error:
        raise InputError(f"somebody else has been submitting for ten minutes: {error}") from None
