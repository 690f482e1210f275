"""One wave of a campaign on SLURM: what is neither done nor queued is submitted, as far as the site's limits let it.

What was submitted stays. A limit makes the rest wait; a refusal concerns only the runs of that job; a command that
fails for a moment is asked again, and the queue first, since sbatch may say that a socket timed out after its job was
taken.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.campaign.cost import Estimator
from benchmarks.campaign.opened import Campaign
from benchmarks.campaign.plan import PlannedRun
from benchmarks.campaign.sites import resources_of_run
from benchmarks.campaign.spec import Resources
from benchmarks.launch import ask, slurm
from benchmarks.launch.ask import LimitError, RefusedError, UnreachableError
from benchmarks.launch.element import write_batch
from benchmarks.launch.endings import Ending, bad_nodes, endings, judge, note, with_lessons
from benchmarks.launch.jobs import Batch, Job, Where, batches, chained_singly, give_lanes, group
from benchmarks.launch.ledger import Ledger, Submission, new_id
from benchmarks.launch.script import script_text
from benchmarks.launch.slurm import QueuedJob
from benchmarks.run.process import forget_ending, write_failure
from benchmarks.run.rundir import campaign_dir, is_done, root_tag, run_dir
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_text

_JOB_ID = re.compile(r"(?:job )?(\d+)")


@dataclass
class Outcome:
    """What a wave did.

    Attributes:
        submitted, waiting: run ids; those that wait need a place in the queue, or a run that waits for one.
        why: the limit's name, or SLURM's silence.
        refused: run id -> SLURM's words.
        jobs, calls: how many jobs were submitted, by how many calls of sbatch.
        queued: how many jobs of the root stood in the queue when a limit was met.
        bad: nodes left out, and why.
    """

    submitted: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    why: str = ""
    refused: dict[str, str] = field(default_factory=dict)
    jobs: int = 0
    calls: int = 0
    queued: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    unreachable: bool = False


class Wave:
    """A wave at work. Whoever makes one holds the lease on submitting in this root."""

    def __init__(self, campaign: Campaign) -> None:
        self.campaign, self.root, self.launch = campaign, campaign.root, campaign.launch
        self.tag = root_tag(self.root)
        self.ledger = Ledger.read(self.root)
        self.outcome = Outcome()
        self.queue: dict[str, QueuedJob] = slurm.queue()
        self.queued = slurm.queued_runs(self.root, self.ledger, self.queue)
        self.full: dict[str, str] = {}
        self.lanes: dict[int, str] = {}
        self.chain: list[str] = []

    def judge_endings(self) -> None:
        """Note why jobs have ended whose runs are neither done nor queued."""
        for run, ending in not_noted(self.root, self.campaign.plan.runs, self.ledger, self.queued):
            note(run_dir(self.root, run.run_id), ending)

    def submit(self, runs: Iterable[PlannedRun]) -> Outcome:
        """Submit these runs, each after what it needs; those whose needs cannot be submitted now wait for them."""
        runs = list(runs)
        campaign, outcome = self.campaign, self.outcome
        outcome.bad = bad_nodes(run_dir(self.root, run.run_id) for run in campaign.plan.runs)
        estimator = Estimator(campaign.plan, self.root, self.launch, campaign.file.spec.estimate, campaign.catalog)
        seconds = (lambda run: estimator.cost(run).wall_s) if self.launch.target_min else (lambda run: None)
        left = group(runs, self.launch, resources=self._resources, seconds=seconds)
        where = {
            run.run_id: _where(self.queued[s])
            for run in campaign.plan.runs
            if (s := run.request.short()) in self.queued
        }
        self._hold_limit(left)
        max_array = slurm.max_array_size() if self.launch.array == "auto" and len(left) > 1 else 1
        unsubmitted = {run.run_id for job in left for run in job.runs}
        while ready := [job for job in left if not set(job.needs) & unsubmitted]:
            left = [job for job in left if set(job.needs) & unsubmitted]
            for batch in batches(ready, self.launch, where, max_array):
                for placed, index, submission in self._place(batch):
                    for run in placed.runs:
                        assert submission.job_id is not None
                        where[run.run_id] = Where(submission.job_id, index, submission.is_array)
                        unsubmitted.discard(run.run_id)
                        outcome.submitted.append(run.run_id)
        for job in left:
            if not set(job.needs) & set(outcome.refused):
                outcome.waiting += [run.run_id for run in job.runs]
        outcome.queued = len(self.queued) + len(outcome.submitted)
        ask.forget_answers()
        return outcome

    def send(self, submission: Submission, text: str) -> None:
        """Give a script to sbatch, and note the job's id.

        Raises:
            LimitError, RefusedError, UnreachableError: in SLURM's words.
        """
        script = self.folder(submission) / "job.sh"
        write_text(script, text)
        self.ledger.begin(submission)
        mark = submission.mark(self.tag)
        deadline, delay_s, unknown = time.monotonic() + ask.PATIENCE_S, ask._FIRST_DELAY_S, 0
        while True:
            found, out, words = ask.try_once(["sbatch", str(script)])
            self.outcome.calls += 1
            ids = _JOB_ID.findall(out)
            if found is None and ids:
                return self.ledger.submitted(submission, ids[-1])
            if found in ("limit", "refused"):
                self.ledger.refuse(submission, words)
                raise LimitError(words) if found == "limit" else RefusedError(words)
            # It may have been taken all the same: sbatch hears of that over the socket that failed.
            job_id = slurm.job_with_mark(mark, slurm.queue(patience_s=max(deadline - time.monotonic(), 20)))
            if job_id is not None:
                return self.ledger.submitted(submission, job_id)
            unknown += found in ("unknown", None)
            if unknown >= ask._TRIES_OF_UNKNOWN:
                self.ledger.refuse(submission, words)
                raise RefusedError(words)
            if time.monotonic() + delay_s > deadline:
                raise UnreachableError(f"sbatch does not answer: {words}")
            time.sleep(delay_s)
            delay_s = min(2 * delay_s, ask._LONGEST_DELAY_S)

    def folder(self, submission: Submission) -> Path:
        """Where a submission's script, its list of runs and the output of its jobs lie."""
        return campaign_dir(self.root, self.campaign.plan.name) / "jobs" / submission.id

    def _resources(self, run: PlannedRun) -> Resources:
        asked = resources_of_run(self.launch, run, self.campaign.file.spec.estimate)
        history = endings(run_dir(self.root, run.run_id))
        return with_lessons(asked, history, self.launch.retry, self.outcome.bad)

    def _hold_limit(self, jobs: list[Job]) -> None:
        """With a limit on running jobs: which of those in the queue come before the new ones."""
        if self.launch.max_running is None:
            return
        if chained_singly(jobs, self.launch):
            give_lanes(jobs, self.launch)
        queued = {job_id.partition("_")[0] for job_id in self.queued.values()}
        for each in self.ledger.submissions.values():
            if each.campaign == self.campaign.plan.name and each.kind == "runs" and each.job_id in queued:
                if each.lane is not None:
                    self.lanes[each.lane] = each.job_id
                else:
                    self.chain.append(each.job_id)

    def _place(self, batch: Batch) -> list[tuple[Job, int, Submission]]:
        """Submit a batch, in parts where a limit leaves no room for all of it."""
        placed: list[tuple[Job, int, Submission]] = []
        parts = [batch]
        kind = batch.resources.model_dump_json()
        while parts:
            part = parts.pop()
            if kind in self.full or self.outcome.unreachable:
                self._wait(part)
                continue
            try:
                submission = self._send(part)
            except LimitError as limit:
                if len(part.jobs) > 1:
                    parts += reversed(part.halves())
                elif ask.is_of_one_user(str(limit)) and not self.queue and not self.outcome.jobs:
                    self._refuse(part, str(limit))  # nothing is queued that could make room
                else:
                    self.full[kind] = self.outcome.why = str(limit)
                    self._wait(part)
            except RefusedError as refusal:
                self._refuse(part, str(refusal))
            except UnreachableError as silence:
                self.outcome.why, self.outcome.unreachable = str(silence), True
                self._wait(part)
            else:
                placed += [(job, index, submission) for index, job in part.jobs.items()]
                self.outcome.jobs += len(part.jobs)
        return placed

    def _send(self, batch: Batch) -> Submission:
        resources, jobs = batch.resources, batch.jobs
        lane = next(iter(jobs.values())).lane
        submission = Submission(
            new_id(),
            self.campaign.plan.name,
            {index: tuple(run.request.short() for run in job.runs) for index, job in jobs.items()},
            is_array=batch.is_array,
            lane=lane,
            mem_gb=resources.mem_gb,
        )
        after = [batch.dependency] if batch.dependency else []
        earlier = [self.lanes[lane]] if lane is not None and lane in self.lanes else self.chain if lane is None else []
        if earlier and batch.dependency != f"afterok:{earlier[0]}":
            after.append(f"afterany:{':'.join(earlier)}")
        folder = self.folder(submission)
        names = {index: [str(run_dir(self.root, run.run_id)) for run in job.runs] for index, job in jobs.items()}
        write_batch(folder, names, timeout_min=resources.timeout_min, max_in_vain=self.launch.retry.timeout.max)
        for job in jobs.values():
            for run in job.runs:
                forget_ending(run_dir(self.root, run.run_id))
        text = script_text(
            resources,
            mark=submission.mark(self.tag),
            folder=folder,
            module="benchmarks.launch.element",
            arguments=(str(folder),),
            dependency=",".join(after),
            array=(tuple(jobs), self.launch.max_running if lane is None else None) if batch.is_array else None,
        )
        self.send(submission, text)
        assert submission.job_id is not None
        if lane is not None:
            self.lanes[lane] = submission.job_id
        elif self.launch.max_running is not None:
            self.chain = [submission.job_id]
        return submission

    def _wait(self, batch: Batch) -> None:
        self.outcome.waiting += [run.run_id for job in batch.jobs.values() for run in job.runs]

    def _refuse(self, batch: Batch, words: str) -> None:
        for job in batch.jobs.values():
            for run in job.runs:
                self.outcome.refused[run.run_id] = words
                write_failure(run_dir(self.root, run.run_id), f"SLURM refuses its job: {words}", 2, kind="refused")


def not_noted(
    root: Path, runs: Iterable[PlannedRun], ledger: Ledger, queued: Mapping[str, str]
) -> list[tuple[PlannedRun, Ending]]:
    """How the newest jobs of runs have ended that are neither done nor queued, where no line says so yet."""
    places = ledger.places()
    open_runs = [
        (run, place, place.job_id)
        for run in runs
        if (place := places.get(run.request.short())) is not None
        and place.job_id is not None
        and run.request.short() not in queued
        and not is_done(root, run.run_id)
        and all(e.job_id != place.job_id or e.saved for e in endings(run_dir(root, run.run_id)))
    ]
    ended = slurm.ended([job_id for *_, job_id in open_runs], newer_than=time.time())
    found = []
    for run, place, job_id in open_runs:
        ending = judge(run_dir(root, run.run_id), job_id, ended.get(job_id), place.submission.at)
        memory = place.submission.mem_gb if ending.mem_gb is None else ending.mem_gb
        found.append((run, replace(ending, mem_gb=memory)))
    return found


def history_of(root: Path, run: PlannedRun) -> list[Ending]:
    """How all jobs of a run have ended that ended before it was done, whether or not a wave has noted it."""
    ledger, noted = Ledger.read(root), endings(run_dir(root, run.run_id))
    if run.request.short() not in ledger.places() or not slurm.is_here():
        return noted
    try:
        queued = slurm.queued_runs(root, ledger, slurm.queue(newer_than=0.0))
    except InputError:  # what is noted is still true
        return noted
    return noted + [ending for _, ending in not_noted(root, [run], ledger, queued)]


def _where(job_id: str) -> Where:
    main, _, index = job_id.partition("_")
    return Where(main, int(index or 0), bool(index))
