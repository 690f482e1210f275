"""Running, cancelling and retrying a campaign, and writing its tables."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections import Counter
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

log = logging.getLogger("fastmoco")


def run_campaign(
    campaign: Campaign, *, workers: int | None, watch: bool, feeder: bool = False
) -> dict[str, int] | None:
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

        ended = submit_campaign(campaign, watch=watch, feeder=feeder)
        if ended is not None:
            print_tables(campaign)
            tell_end(campaign, ended)
        return ended
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
    tell_end(campaign, dict(states))
    return dict(states)


def tell_end(campaign: Campaign, states: dict[str, int]) -> None:
    """Run the spec's `on_end`, a shell command with the campaign's name, state and counts in its environment.

    What it prints goes where ours goes; that it fails is said and changes nothing.
    """
    command = campaign.launch.on_end
    if command is None:
        return
    whole = states.get("done", 0) == sum(states.values())
    environment = {
        "FASTMOCO_CAMPAIGN": campaign.plan.name,
        "FASTMOCO_STATE": "done" if whole else "failed",
        "FASTMOCO_COUNTS": ", ".join(f"{count} {state}" for state, count in states.items() if count),
        "FASTMOCO_ROOT": str(campaign.root),
        "FASTMOCO_RUNS": str(sum(states.values())),
        **{f"FASTMOCO_{state.upper()}": str(states.get(state, 0)) for state in ("done", "failed", "skipped")},
    }
    try:
        code = subprocess.run(
            command, shell=True, env={**os.environ, **environment}, timeout=600, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        log.warning("on_end has not ended within ten minutes: %s", command)
    else:
        if code:
            log.warning("on_end ended with exit code %d: %s", code, command)


def end_states(campaign: Campaign) -> dict[str, int]:
    """How many runs are in which state, from disk."""
    return dict(Counter(row.state for row in survey(campaign.plan, campaign.root)))


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
    from benchmarks.launch.ledger import Ledger

    places = Ledger.read(campaign.root).places()
    return any(run.request.short() in places for run in runs)
