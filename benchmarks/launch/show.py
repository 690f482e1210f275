"""What campaign commands print: plan, status, progress, logs. Tables on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.campaign.cost import Estimator
from benchmarks.campaign.opened import Campaign
from benchmarks.campaign.plan import Plan, PlannedRun
from benchmarks.campaign.precheck import check_files
from benchmarks.campaign.status import JobState, RunStatus, clock, counts, main_metric, survey
from benchmarks.launch.jobs import group
from benchmarks.run.process import LOG, read_failure
from benchmarks.run.rundir import campaign_dir, is_done, run_dir
from results.row import read_result

log = logging.getLogger("fastmoco")

REFRESH_S = 2.0
_COLOURS = {
    "done": "green",
    "running": "cyan",
    "failed": "red",
    "skipped": "magenta",
    "cancelled": "magenta",
    "interrupted": "yellow",
}


def print_plan(campaign: Campaign) -> None:
    """The graph, its jobs, and what is estimated for what is not done. Raises InputError as `check_files` does."""
    estimator = estimator_of(campaign)
    rows = survey(campaign.plan, campaign.root)
    check_files(campaign.file, [row.run for row in rows if row.state != "done"])
    table = _listing("state", "needs", "estimate")
    wall_s = gpu_hours = disk_bytes = 0.0
    unknown = 0
    for row in rows:
        estimate = ""
        if row.state != "done":
            cost = estimator.cost(row.run)
            wall_s, gpu_hours, disk_bytes = (
                wall_s + (cost.wall_s or 0),
                gpu_hours + cost.gpu_hours,
                disk_bytes + cost.disk_bytes,
            )
            unknown += cost.wall_s is None
            estimate = clock(cost.wall_s) if cost.wall_s is not None else "unknown"
        needs = ", ".join(campaign.plan.run(need).request.short() for need in row.run.needs)
        table.add_row(*_named(row.run), row.state, needs or "-", estimate)
    console = _console()
    console.print(table)
    open_runs = [row.run for row in rows if row.state != "done"]
    print(f"{len(rows)} runs: {counts(rows)}")
    if not open_runs:
        return
    print(f"as SLURM jobs: {len(group(open_runs, campaign.launch))}")
    told = []
    if unknown < len(open_runs):
        told.append(f"{clock(wall_s)} of work one after the other, {gpu_hours:.3g} GPU-hours")
    if unknown:
        told.append(f"{unknown} run{'s' * (unknown > 1)} of which nothing tells the time (the spec's 'estimate' may)")
    print(f"estimate: {', and '.join(told)}")
    print(f"disk: about {disk_bytes / 2**20:,.0f} MiB, the cache of features not counted")


def print_status(campaign: Campaign, *, watch: bool) -> None:
    """One table of every run; with `watch` refreshed until nothing is left to wait for."""

    def rows() -> list[RunStatus]:
        return survey(campaign.plan, campaign.root, jobs_of(campaign))

    if not watch:
        found = rows()
        _console().print(_status_table(found))
        print(counts(found))
        return
    if not sys.stdout.isatty():
        _watch_plainly(rows)
        return
    with Live(console=_console(), auto_refresh=False) as live:
        while True:
            found = rows()
            live.update(_status_table(found), refresh=True)
            if not _moving(found):
                return
            time.sleep(REFRESH_S)


def print_log(campaign: Campaign, name: str, *, follow: bool) -> None:
    """A run's log so far; with `follow` what is added, until the run has ended."""
    run = campaign.plan.run(name)
    path = run_dir(campaign.root, run.run_id) / LOG
    position = 0
    while True:
        # Asked before reading, so that what is written at the very end is still printed.
        ended = is_done(campaign.root, run.run_id) or read_failure(path.parent) is not None
        if path.exists():
            with path.open("rb") as stream:
                stream.seek(position)
                sys.stdout.write(stream.read().decode("utf-8", errors="replace"))
                sys.stdout.flush()
                position = stream.tell()
        elif not follow:
            print(f"{run.run_id} has no log yet: it has not begun")
        if not follow or ended:
            return
        time.sleep(0.5)


def print_whereabouts(campaign: Campaign) -> None:
    """Where the results of a campaign lie."""
    print(f"\nrun directories: {campaign.root / 'runs'}")
    print(f"tables:          {campaign_dir(campaign.root, campaign.plan.name) / 'tables'}")
    print(f"curves:          tensorboard --logdir {campaign.root / 'runs'}")


class CampaignDisplay:
    """Shows a local campaign at work: a table that follows it on a terminal, a line a change elsewhere."""

    def __init__(self, plan: Plan, root: Path, live: Live | None) -> None:
        self.plan, self.root, self.live = plan, root, live
        self.began = self._drawn = time.monotonic()
        self.states: dict[str, str] = {}

    def changed(self, run: PlannedRun, state: str) -> None:
        """A run came into a state."""
        first = run.run_id not in self.states
        self.states[run.run_id] = state
        # What was done before, and what waits, is told by the count at the end of each line.
        if self.live is not None or state == "waiting" or (first and state == "done"):
            return
        words = {"elsewhere": "another process is at work on it", "running": "started"}.get(state, state)
        log.info("%s %s: %s%s", self._count(), run.title, words, self._outcome(run, state))

    def tick(self) -> None:
        """Draw anew, at most twice a second."""
        if self.live is None or time.monotonic() - self._drawn < 0.5:
            return
        self._drawn = time.monotonic()
        rows = survey(self.plan, self.root)
        height = self.live.console.height - 3
        if len(rows) > height:  # what moves first, then what failed, then the rest as far as it fits
            rows = sorted(rows, key=lambda row: {"running": 0, "failed": 1}.get(row.state, 2))[:height]
        table = _status_table(rows)
        table.caption = f"{self._count()} after {clock(time.monotonic() - self.began)}"
        self.live.update(table, refresh=True)

    def _count(self) -> str:
        done = sum(state == "done" for state in self.states.values())
        return f"[{done}/{len(self.plan.runs)} done]"

    def _outcome(self, run: PlannedRun, state: str) -> str:
        directory = run_dir(self.root, run.run_id)
        if state == "done":
            result = read_result(directory)
            return f", {main_metric(result)} ({clock(result.run.wall_s or 0)})"
        failure = read_failure(directory) if state == "failed" else None
        return f": {failure['error']} (log: {directory / LOG})" if failure else ""


@contextmanager
def campaign_display(plan: Plan, root: Path) -> Iterator[CampaignDisplay]:
    """A display for the length of the block; failures are told again at its end."""
    if sys.stderr.isatty():
        with Live(console=Console(stderr=True), auto_refresh=False, transient=True) as live:
            display = CampaignDisplay(plan, root, live)
            yield display
    else:
        display = CampaignDisplay(plan, root, None)
        yield display
    states = list(display.states.values())
    log.info("%d runs: %s", len(states), ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states)))
    for run in plan.runs:
        if display.states.get(run.run_id) == "failed" and display.live is not None:
            log.info("failed: %s%s", run.title, display._outcome(run, "failed"))


def _watch_plainly(rows_now) -> None:  # type: ignore[no-untyped-def]
    told: dict[str, tuple[str, str]] = {}
    while True:
        rows: list[RunStatus] = rows_now()
        for row in rows:
            key = (row.state, row.detail if row.state not in ("running", "pending") else "")
            if told.get(row.run.run_id) != key:
                told[row.run.run_id] = key
                print(f"{row.run.run_id}: {row.state}{f' ({row.detail})' if row.detail else ''}", flush=True)
        if not _moving(rows):
            print(counts(rows))
            return
        time.sleep(REFRESH_S)


def _moving(rows: list[RunStatus]) -> bool:
    return any(row.state in ("running", "pending") for row in rows)


def _status_table(rows: list[RunStatus]) -> Table:
    table = _listing("state", "requeued", "")
    for row in rows:
        colour = _COLOURS.get(row.state, "")
        state = f"[{colour}]{row.state}[/]" if colour else row.state
        table.add_row(*_named(row.run), state, str(row.restarts or ""), _plain(row.detail))
    return table


def _listing(*columns: str) -> Table:
    """A table of runs: an id that can be copied whole at any width, then what the spec calls the run."""
    table = Table(box=None, pad_edge=False)
    table.add_column("run", no_wrap=True, overflow="ignore", min_width=12)
    for column in ("what", *columns):
        table.add_column(column)
    return table


def _named(run: PlannedRun) -> tuple[str, str]:
    """A run's id (on a terminal its end, which every command takes in its place) and its title."""
    return run.request.short() if sys.stdout.isatty() else run.run_id, _plain(run.title)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _console() -> Console:
    # Without a terminal nothing tells a width, and no line may be cut.
    return Console() if sys.stdout.isatty() else Console(width=400, soft_wrap=True)


def estimator_of(campaign: Campaign) -> Estimator:
    """What estimates the cost of a campaign's runs."""
    spec = campaign.file.spec
    return Estimator(campaign.plan, campaign.root, campaign.launch, spec.estimate, campaign.catalog)


def jobs_of(campaign: Campaign) -> dict[str, JobState]:
    """Run id -> what the scheduler says of its newest job."""
    from benchmarks.launch.slurm import job_states

    states, silence = job_states(campaign.plan, campaign.root)
    if silence:
        log.warning("SLURM does not answer, so this is what lies on disk: %s", silence)
    return states
