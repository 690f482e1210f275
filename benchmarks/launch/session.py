"""Running, cancelling and retrying a campaign, and writing its tables."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.campaign.opened import Campaign
from benchmarks.campaign.plan import PlannedRun
from benchmarks.campaign.precheck import check_weights
from benchmarks.campaign.status import survey
from benchmarks.launch import show
from benchmarks.run.lease import holder
from benchmarks.run.rundir import campaign_dir, is_done, note_cancelled, run_dir
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_text


def run_campaign(campaign: Campaign, *, workers: int | None, watch: bool) -> dict[str, int] | None:
    """Do what is not done. Returns how many runs ended in which state; None when SLURM was given the work.

    Raises:
        InputError: a run cannot work as asked; the scheduler's own words where it refuses a job.
        Interrupted: stopped by a signal, states saved.
    """
    open_runs = [run for run in campaign.plan.runs if not is_done(campaign.root, run.run_id)]
    check_tables(campaign)
    if open_runs:
        check_weights(campaign.file, open_runs)
    if campaign.cluster == "slurm":
        from benchmarks.launch.submit import submit_campaign

        submit_campaign(campaign, watch=watch)
        return None
    from benchmarks.launch.local import LocalLauncher, run_in_process

    with show.campaign_display(campaign.plan, campaign.root) as display:
        if campaign.cluster == "debug":
            states = run_in_process(campaign.plan, campaign.root, display.changed)
        else:
            count = workers or campaign.launch.workers
            launcher = LocalLauncher(campaign.plan, campaign.root, count, display.changed, display.tick)
            states = launcher.run()
    print_tables(campaign)
    show.print_whereabouts(campaign)
    return dict(states)


def check_tables(campaign: Campaign) -> None:
    """Raise InputError, with the spec's line, for a table that does not exist."""
    from results.tables.definition import load_definition

    for index, name in enumerate(campaign.file.spec.tables):
        with campaign.file.at("tables", index):
            load_definition(name)


def print_tables(campaign: Campaign) -> None:
    """Print the spec's tables of what is done, and keep them as Markdown under ROOT/campaigns/NAME/tables."""
    from results.store.store import load
    from results.tables.named import render

    if not any(is_done(campaign.root, run.run_id) for run in campaign.plan.runs):
        return
    loaded = load([run_dir(campaign.root, run.run_id) for run in campaign.plan.runs])
    for name in campaign.file.spec.tables:
        text = render(name, loaded, format="md")
        write_text(campaign_dir(campaign.root, campaign.plan.name) / "tables" / f"{Path(name).stem}.md", text)
        print(f"\n{text}")


def select_for_retry(campaign: Campaign, names: list[str]) -> Campaign:
    """The campaign with only the failed runs (or those named), what they need and what needs them.

    Raises:
        InputError: nothing has failed, or a name that fits no run.
    """
    rows = survey(campaign.plan, campaign.root)
    wanted = {campaign.plan.run(name).run_id for name in names} or {
        row.run.run_id for row in rows if row.state == "failed"
    }
    if not wanted:
        raise InputError("no run of this campaign has failed; `campaign run` does what is missing")
    for run in campaign.plan.runs:
        if wanted & set(run.needs):
            wanted.add(run.run_id)
    for run in reversed(campaign.plan.runs):
        if run.run_id in wanted:
            wanted.update(run.needs)
    runs = tuple(run for run in campaign.plan.runs if run.run_id in wanted)
    return replace(campaign, plan=campaign.plan.model_copy(update={"runs": runs}))


def cancel_runs(campaign: Campaign, names: list[str]) -> Iterator[str]:
    """Stop the runs (all when none is named), and say of each what was done."""
    runs = [campaign.plan.run(name) for name in names] or list(campaign.plan.runs)
    for run in runs:  # before anything stops, so that one who watches does not queue it again meanwhile
        if not is_done(campaign.root, run.run_id):
            note_cancelled(run_dir(campaign.root, run.run_id))
    stopped = list(_cancel_local(campaign.root, runs))
    yield from stopped
    if _has_submissions(campaign, runs):
        from benchmarks.launch.submit import cancel_jobs

        jobs = list(cancel_jobs(campaign, runs))
        yield from jobs
        stopped += jobs
    if not stopped:
        yield "nothing of it is queued or running"


def _cancel_local(root: Path, runs: list[PlannedRun]) -> Iterator[str]:
    for run in runs:
        who = holder(run_dir(root, run.run_id) / "lease")
        if who is None or who["slurm_job_id"] is not None:
            continue
        if who["host"] != os.uname().nodename:
            yield f"{run.run_id}: process {who['pid']} works on it on {who['host']}; cancel it there"
            continue
        os.kill(who["pid"], signal.SIGTERM)
        yield f"{run.run_id}: asked process {who['pid']} to save and stop"


def _has_submissions(campaign: Campaign, runs: list[PlannedRun]) -> bool:
    return any((run_dir(campaign.root, run.run_id) / "submission.json").exists() for run in runs)
