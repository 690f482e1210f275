"""`fastmoco campaign plan | run | status | cancel | retry | logs | explain`: a spec's graph of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from benchmarks.cli.options import CatalogOption, RootOption, load_catalog
from pretrain.runtime.errors import RunFailedError

app = typer.Typer(
    help="Run a campaign: a YAML spec of what to pretrain, which checkpoints to measure, and how.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Spec = Annotated[Path, typer.Argument(metavar="SPEC.yaml", help="The campaign spec.")]
RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="A run id, or a part of an id or title that no other run has.")
]
RunNames = Annotated[
    list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs by id or part of it; all if none.")
]
Cluster = Annotated[
    Literal["debug", "local", "slurm"] | None,
    typer.Option("--cluster", help="debug: in this process; local: worker processes; slurm. Default: the spec's."),
]
Site = Annotated[
    str | None,
    typer.Option("--site", help="A profile of the sites file; the spec's when not given.", show_default=False),
]
Watch = Annotated[bool, typer.Option("--watch", help="Stay, refresh, and (run) resubmit what was interrupted.")]

DEFAULT_ROOT = Path("runs")


@app.command()
def plan(
    spec: Spec,
    root: RootOption = DEFAULT_ROOT,
    cluster: Cluster = None,
    site: Site = None,
    catalog: CatalogOption = None,
) -> None:
    """Print the graph of runs, what is done, and what the rest will cost; nothing is started or written.

    Example: fastmoco campaign plan benchmarks/campaigns/demo.yaml --root runs/demo
    """
    from benchmarks.launch import show

    campaign = _campaign(spec, root, catalog, cluster, site)
    show.print_plan(campaign)


@app.command()
def run(
    spec: Spec,
    root: RootOption = DEFAULT_ROOT,
    cluster: Cluster = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Runs at a time, of the local launcher.", show_default=False)
    ] = None,
    site: Site = None,
    watch: Watch = False,
    feeder: Annotated[
        bool,
        typer.Option(
            "--feeder", help="Let a small job of the campaign's own submit what a limit keeps waiting, and what stops."
        ),
    ] = False,
    catalog: CatalogOption = None,
) -> None:
    """Run everything that is not finished. A finished run is never computed twice; a failed one is tried once more.

    With --cluster slurm the whole graph is submitted at once, or as much of it as the site's limits take, and the
    command returns.

    Example: fastmoco campaign run benchmarks/campaigns/demo.yaml --root runs/demo --cluster local --workers 2
    """
    from benchmarks.launch.session import run_campaign

    campaign = _campaign(spec, root, catalog, cluster, site)
    _leave_unless_all_done(run_campaign(campaign, workers=workers, watch=watch, feeder=feeder))


@app.command()
def status(
    spec: Spec, root: RootOption = DEFAULT_ROOT, watch: Watch = False, site: Site = None, catalog: CatalogOption = None
) -> None:
    """Show every run: its state from disk and scheduler, where it stands, why it waits or failed.

    Example: fastmoco campaign status benchmarks/campaigns/demo.yaml --root runs/demo --watch
    """
    from benchmarks.launch import show

    show.print_status(_campaign(spec, root, catalog, None, site), watch=watch)


@app.command()
def tables(
    spec: Spec,
    root: RootOption = DEFAULT_ROOT,
    at_end: Annotated[
        bool, typer.Option("--at-end", help="The campaign has ended: run the spec's on_end too.")
    ] = False,
    catalog: CatalogOption = None,
) -> None:
    """Print the spec's tables of what is done, and write them under ROOT/campaigns/NAME/tables.

    Example: fastmoco campaign tables benchmarks/campaigns/demo.yaml --root runs/demo
    """
    from benchmarks.launch.session import end_states, print_tables, tell_end

    campaign = _campaign(spec, root, catalog, None, None)
    print_tables(campaign)
    if at_end:
        tell_end(campaign, end_states(campaign))


@app.command()
def cancel(
    spec: Spec, runs: RunNames = None, root: RootOption = DEFAULT_ROOT, site: Site = None, catalog: CatalogOption = None
) -> None:
    """Cancel SLURM jobs and stop local workers of a campaign, or of some of its runs; states are saved.

    Example: fastmoco campaign cancel paper.yaml detection --root /checkpoint/me/paper
    """
    from benchmarks.launch.session import cancel_runs

    for line in cancel_runs(_campaign(spec, root, catalog, None, site), runs or []):
        print(line)


@app.command()
def retry(
    spec: Spec,
    runs: RunNames = None,
    root: RootOption = DEFAULT_ROOT,
    cluster: Cluster = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Runs at a time, of the local launcher.", show_default=False)
    ] = None,
    site: Site = None,
    catalog: CatalogOption = None,
) -> None:
    """Run again only what failed (or the runs named), with what it needs and what was waiting for it.

    Example: fastmoco campaign retry benchmarks/campaigns/demo.yaml --root runs/demo
    """
    from benchmarks.launch.session import run_campaign, select_for_retry

    campaign = select_for_retry(_campaign(spec, root, catalog, cluster, site), runs or [])
    _leave_unless_all_done(run_campaign(campaign, workers=workers, watch=False))


@app.command()
def logs(
    spec: Spec,
    run_name: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay and print what is added.")] = False,
    root: RootOption = DEFAULT_ROOT,
    catalog: CatalogOption = None,
) -> None:
    """Print a run's log.

    Example: fastmoco campaign logs benchmarks/campaigns/demo.yaml knn-fast_moco --root runs/demo -f
    """
    from benchmarks.launch import show

    show.print_log(_campaign(spec, root, catalog, None, None), run_name, follow=follow)


@app.command()
def explain(
    spec: Spec, run_name: RunName, root: RootOption = DEFAULT_ROOT, site: Site = None, catalog: CatalogOption = None
) -> None:
    """Say all about one run: what goes in, what it needs and waits for, what it asks of the cluster and would cost.

    Example: fastmoco campaign explain benchmarks/campaigns/demo.yaml knn-moco --root runs/demo
    """
    from benchmarks.launch.explain import print_explanation

    print_explanation(_campaign(spec, root, catalog, None, site), run_name)


def _campaign(spec: Path, root: Path, catalog: Path | None, cluster: str | None, site: str | None):  # type: ignore[no-untyped-def]
    from benchmarks.campaign.opened import open_campaign

    return open_campaign(spec, root, load_catalog(catalog), cluster=cluster, site=site)


def _leave_unless_all_done(states: dict[str, int] | None) -> None:
    """Exit code 1 when a run failed. None: the campaign was handed to the scheduler."""
    if states and states.get("failed"):
        skipped = f", {states['skipped']} that need them were skipped" if states.get("skipped") else ""
        raise RunFailedError(f"{states['failed']} of {sum(states.values())} runs failed{skipped}")
    if states and states.get("interrupted"):
        raise RunFailedError(f"{states['interrupted']} runs were stopped from outside; run the campaign again to go on")
