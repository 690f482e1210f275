"""A campaign on SLURM, wave by wave, until nothing is left: by `run`, by `run --watch`, or by a job of its own."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.campaign.opened import Campaign
from benchmarks.campaign.plan import PlannedRun
from benchmarks.campaign.prepared import prepare
from benchmarks.campaign.sites import resources_of, resources_of_run
from benchmarks.campaign.spec import Resources
from benchmarks.campaign.status import RunStatus, counts, survey
from benchmarks.launch import slurm
from benchmarks.launch.ask import LimitError, RefusedError, UnreachableError, ask
from benchmarks.launch.endings import bad_nodes, endings, worth_another
from benchmarks.launch.ledger import Kind, Ledger, Submission, new_id
from benchmarks.launch.script import script_text
from benchmarks.launch.wave import Outcome, Wave
from benchmarks.run.lease import LeaseHeldError, lease
from benchmarks.run.rundir import campaign_dir, is_cancelled, is_done, run_dir
from pretrain.runtime.errors import InputError, RunFailedError
from pretrain.runtime.files import write_json

log = logging.getLogger("fastmoco")

_WATCH_S = float(os.environ.get("FASTMOCO_WATCH_S", "30"))
# While nothing changes, `--watch` asks ever less often, down to this many times `_WATCH_S`.
_LONGEST_WATCH = 8
# After so many looks a limit is tried again though none of our jobs has left: others may have made room.
_LOOKS_AT_A_LIMIT = 4
_STOPPED = {"interrupted", "cancelled", "waiting", "new"}
WAITING = "waiting.json"
# The feeder's job is submitted before there are jobs to depend on; should telling it fail, it begins after this.
_FEEDER_BEGINS = "now+20minutes"


@dataclass
class Progress:
    """What one who stays knows between two looks.

    Attributes:
        to_retry: runs that had failed before the command was given; each is tried once.
        outcome: of the last wave.
        looks: since that wave.
    """

    to_retry: set[str] = field(default_factory=set)
    outcome: Outcome = field(default_factory=Outcome)
    looks: int = 0


def submit_campaign(campaign: Campaign, *, watch: bool = False, feeder: bool = False) -> dict[str, int] | None:
    """Submit what is neither done nor queued. With `watch` stay until all has ended; how many ended in which state.

    Raises:
        InputError: SLURM is not here, or refuses jobs, in its own words; what it took stays submitted.
        RunFailedError: SLURM does not answer.
    """
    if not slurm.is_here():
        raise InputError("SLURM is not here: sbatch, squeue, scontrol or scancel is not installed; use --cluster local")
    prepare(campaign.root, campaign.plan)
    in_feeder = feeder and _is_feeder(campaign)
    failed = {row.run.run_id for row in survey(campaign.plan, campaign.root) if row.state == "failed"}
    progress = Progress(set() if in_feeder else failed)
    if not in_feeder:
        _wave(campaign, progress, set(), feeder=feeder, tables=not watch and not feeder)
        _tell(progress.outcome, told_how=not watch and not feeder)
        outcome = progress.outcome
        if not outcome.submitted and not outcome.waiting and not outcome.refused:
            states, _ = slurm.job_states(campaign.plan, campaign.root)
            log.info("nothing to submit: %s", counts(survey(campaign.plan, campaign.root, states)))
    elif (ended := _advance(campaign, progress, feeder=True)) is not None:
        _cancel_kind(campaign, "feeder")
        return ended
    if not watch:
        _leave(progress.outcome)
        return None
    wait_s, before = _WATCH_S, ""
    while True:
        if (ended := _advance(campaign, progress)) is not None:
            return ended
        now = counts(survey(campaign.plan, campaign.root))
        wait_s = _WATCH_S if now != before else min(1.5 * wait_s, _LONGEST_WATCH * _WATCH_S)
        before = now
        time.sleep(wait_s)


def _advance(campaign: Campaign, progress: Progress, *, feeder: bool = False) -> dict[str, int] | None:
    """Look at the campaign and submit what can be; how many runs ended in which state once there is nothing to do."""
    states, silence = slurm.job_states(campaign.plan, campaign.root)
    while silence:
        log.info("%s; looking again later", silence)
        if not feeder:
            return None
        time.sleep(_WATCH_S)  # a job of the campaign's own has time, and would have no successor
        states, silence = slurm.job_states(campaign.plan, campaign.root)
    rows = survey(campaign.plan, campaign.root, states)
    log.info("%s", counts(rows))
    by_hand = {run.run_id for run in campaign.plan.runs if is_cancelled(run_dir(campaign.root, run.run_id))}
    if any(row.state in ("failed", *_STOPPED) for row in rows):
        with _submitting(campaign.root):
            Wave(campaign).judge_endings()
    bad = bad_nodes(run_dir(campaign.root, run.run_id) for run in campaign.plan.runs)
    final = {row.run.run_id for row in rows if _is_final(campaign, row, progress, bad)}
    out = _with_dependants(campaign, by_hand | final)
    mine = [row for row in rows if row.run.run_id not in out]
    open_rows = [row for row in mine if row.state not in ("done", "running", "pending")]
    moving = sum(row.state in ("running", "pending") for row in rows)
    if not open_rows and not moving:
        return {state: sum(row.state == state for row in rows) for state in {row.state for row in rows}}
    if open_rows and _room(progress, open_rows, moving):
        _wave(campaign, progress, out, feeder=feeder)
        _tell(progress.outcome, told_how=False)
    elif feeder:
        _wave(campaign, progress, {run.run_id for run in campaign.plan.runs}, feeder=True)
    return None


def _is_final(campaign: Campaign, row: RunStatus, progress: Progress, bad: dict[str, str]) -> bool:
    """Whether nobody but the user tries this run again."""
    run_id = row.run.run_id
    if row.state not in ("failed", *_STOPPED) or run_id in progress.to_retry:
        return False
    history = endings(run_dir(campaign.root, run_id))
    if row.state == "failed" and not history:
        return True
    resources = resources_of_run(campaign.launch, row.run, campaign.file.spec.estimate)
    return not worth_another(history, campaign.launch.retry, resources, bad)


def _room(progress: Progress, rows: list[RunStatus], moving: int) -> bool:
    """Whether it is worth asking again: something else than a limit stops these runs, or jobs have left the queue."""
    progress.looks += 1
    waiting = set(progress.outcome.waiting)
    if any(row.run.run_id not in waiting for row in rows) or progress.outcome.unreachable:
        return True
    return moving < progress.outcome.queued or progress.looks >= _LOOKS_AT_A_LIMIT


def _with_dependants(campaign: Campaign, run_ids: set[str]) -> set[str]:
    out = set(run_ids)
    for run in campaign.plan.runs:
        if set(run.needs) & out:
            out.add(run.run_id)
    return out


def _wave(
    campaign: Campaign, progress: Progress, leave_out: set[str], *, feeder: bool = False, tables: bool = False
) -> None:
    """Submit the runs that are neither done, queued nor left out (nor need one that is).

    The lease on the root makes two that submit at the same moment take turns; the second finds the first's jobs in the
    queue.
    """
    with _submitting(campaign.root):
        wave = Wave(campaign)
        wave.judge_endings()
        out = _with_dependants(campaign, leave_out)
        missing = [
            run
            for run in campaign.plan.runs
            if run.run_id not in out
            and not is_done(campaign.root, run.run_id)
            and run.request.short() not in wave.queued
        ]
        helper = _begin_feeder(campaign, wave) if feeder else None
        progress.outcome = outcome = wave.submit(missing) if missing else wave.outcome
        progress.to_retry -= set(outcome.submitted)
        progress.looks = 0
        note = campaign_dir(campaign.root, campaign.plan.name) / WAITING
        if outcome.waiting:
            write_json(note, {"runs": outcome.waiting, "why": outcome.why})
        else:
            note.unlink(missing_ok=True)
        queued = slurm.queued_runs(campaign.root, wave.ledger, slurm.queue()) if helper is not None else {}
        if helper is not None:
            _tell_feeder(helper, list(dict.fromkeys(queued.values())), all_of_them=not outcome.waiting)
        if tables and outcome.submitted and not outcome.waiting:
            _submit_tables(campaign, wave)


def _tell(outcome: Outcome, *, told_how: bool) -> None:
    """Say what a wave did."""
    if not outcome.submitted and not outcome.waiting and not outcome.refused:
        return
    if outcome.submitted:
        calls = f" by {outcome.calls} calls of sbatch" if outcome.calls < outcome.jobs else ""
        log.info("submitted %d runs in %d jobs%s", len(outcome.submitted), outcome.jobs, calls)
    for node, why in outcome.bad.items():
        log.info("node %s is left out: %s", node, why)
    if outcome.waiting and not outcome.unreachable:
        more = "; the same command, --watch or --feeder submits them as places free up" if told_how else ""
        log.info("%d runs wait for a place in the queue (%s)%s", len(outcome.waiting), outcome.why, more)
    for words in dict.fromkeys(outcome.refused.values()):
        concerned = [run_id for run_id, why in outcome.refused.items() if why == words]
        log.info("SLURM refuses %d runs, the first %s: %s", len(concerned), concerned[0], words)


def _leave(outcome: Outcome) -> None:
    if outcome.refused:
        run_id, words = next(iter(outcome.refused.items()))
        more = f" and {len(outcome.refused) - 1} more" if len(outcome.refused) > 1 else ""
        raise InputError(f"SLURM refuses the job of {run_id}{more}: {words}")
    if outcome.unreachable:
        raise RunFailedError(f"{outcome.why}; {len(outcome.waiting)} runs are not submitted, the same command goes on")


def cancel_jobs(campaign: Campaign, runs: list[PlannedRun]) -> Iterator[str]:
    """Cancel the jobs of the runs, and say which. A job that several runs share ends for all of them."""
    ledger = Ledger.read(campaign.root)
    queued = slurm.queued_runs(campaign.root, ledger, slurm.queue())
    wanted = {queued[run.request.short()] for run in runs if run.request.short() in queued}
    # An array of which nothing is kept is cancelled by one id.
    kept = {job_id.partition("_")[0] for job_id in queued.values() if job_id not in wanted}
    mains = {main if (main := job_id.partition("_")[0]) not in kept else job_id for job_id in wanted}
    if len(runs) == len(campaign.plan.runs):
        _cancel_kind(campaign, "feeder")
    slurm.cancel(mains)
    for run in runs:
        if run.request.short() in queued:
            yield f"{run.run_id}: cancelled job {queued[run.request.short()]}"


def _command(campaign: Campaign, *words: str) -> tuple[str, ...]:
    catalog = ("--catalog", str(campaign.catalog.path)) if campaign.catalog.path is not None else ()
    site = ("--site", campaign.site) if campaign.site and words[0] != "tables" else ()
    spec = str(campaign.file.path.absolute())
    return (*catalog, "campaign", words[0], spec, "--root", str(campaign.root), *words[1:], *site)


def _submit_helper(
    campaign: Campaign, wave: Wave, kind: Kind, command: tuple[str, ...], dependency: str, **more: str
) -> Submission:
    """A job of the campaign's own, that is no run."""
    submission = Submission(new_id(), campaign.plan.name, {}, kind=kind)
    resources = resources_of(campaign.launch, "tables", Resources())
    resources = Resources(options={**more}).over(resources) if more else resources
    text = script_text(
        resources,
        mark=submission.mark(wave.tag),
        folder=wave.folder(submission),
        module="benchmarks.cli",
        arguments=command,
        dependency=dependency,
        name=f"fastmoco-{kind}-{campaign.plan.name}",
    )
    wave.send(submission, text)
    return submission


def _submit_tables(campaign: Campaign, wave: Wave) -> None:
    """The campaign's last job: its tables, and word of the end, once every run has ended."""
    mains = sorted({each.job_id for each in wave.ledger.submissions.values() if each.kind == "runs" and each.job_id})
    live = {job_id.partition("_")[0] for job_id in wave.queued.values()}
    places = wave.ledger.places()
    new = {places[run_id[-12:]].submission.job_id for run_id in wave.outcome.submitted}
    after = [main for main in mains if main in live or main in new]
    _cancel_kind(campaign, "tables", wave)
    try:
        _submit_helper(
            campaign, wave, "tables", _command(campaign, "tables", "--at-end"), f"afterany:{':'.join(after)}"
        )
    except (LimitError, RefusedError, UnreachableError) as error:
        log.info("the job that writes the tables is not submitted (%s); `campaign tables` writes them", error)


def _begin_feeder(campaign: Campaign, wave: Wave) -> Submission | None:
    """The feeder's next job, before the runs take the last places; None where one is in the queue already."""
    me = os.environ.get("SLURM_JOB_ID")
    mains = {job_id.partition("_")[0] for job_id in wave.queue}
    for each in wave.ledger.submissions.values():
        ours = each.kind == "feeder" and each.campaign == campaign.plan.name
        if ours and each.job_id in mains and each.job_id != me:
            return each
    deadline = time.monotonic() + 1200
    while True:
        try:
            words = _command(campaign, "run", "--cluster", "slurm", "--feeder")
            return _submit_helper(campaign, wave, "feeder", words, "", begin=_FEEDER_BEGINS)
        except LimitError as error:
            # From a job this can wait; somebody at a terminal hears of it.
            if me is None or time.monotonic() > deadline:
                raise InputError(f"there is no place in the queue for the feeder itself: {error}") from None
            time.sleep(_WATCH_S)


def _tell_feeder(helper: Submission, queued: list[str], *, all_of_them: bool) -> None:
    """Let the feeder begin when a part of the queue has gone, or all of it where nothing waits."""
    if not queued:
        after = ""
    elif all_of_them:
        after = ":".join(dict.fromkeys(job_id.partition("_")[0] for job_id in queued))
    else:
        after = ":".join(queued[: max(1, min(len(queued) // 4, 20))])
    changes = [f"Dependency=afterany:{after}", "StartTime=now"] if after else ["StartTime=now+1minute"]
    try:
        ask(["scontrol", "update", f"JobId={helper.job_id}", *changes])
    except InputError as error:
        log.info("the feeder begins by its time: %s", error)


def _is_feeder(campaign: Campaign) -> bool:
    """Whether this process is the campaign's feeder at work."""
    me = os.environ.get("SLURM_JOB_ID")
    found = Ledger.read(campaign.root).submissions.values()
    return me is not None and any(each.kind == "feeder" and each.job_id == me for each in found)


def _cancel_kind(campaign: Campaign, kind: Kind, wave: Wave | None = None) -> None:
    """Cancel the campaign's jobs of a kind that is not runs; not the one that asks."""
    ledger = wave.ledger if wave else Ledger.read(campaign.root)
    jobs = wave.queue if wave else slurm.queue()
    mains = {job_id.partition("_")[0] for job_id in jobs} - {os.environ.get("SLURM_JOB_ID", "")}
    ours = [each for each in ledger.submissions.values() if each.kind == kind and each.campaign == campaign.plan.name]
    slurm.cancel(each.job_id for each in ours if each.job_id in mains and each.job_id is not None)


@contextmanager
def _submitting(root: Path) -> Iterator[None]:
    try:
        with lease(root / "submitting", wait_s=600):
            yield
    except LeaseHeldError as error:
        raise InputError(f"somebody else has been submitting for ten minutes: {error}") from None
