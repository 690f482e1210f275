"""A campaign opened for its commands: the spec, its plan, its root, and how it is launched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.campaign.plan import Plan, make_plan
from benchmarks.campaign.sites import with_site
from benchmarks.campaign.spec import Launch, SpecFile, load_spec
from pretrain.data.catalog import Catalog


@dataclass(frozen=True)
class Campaign:
    """What every campaign command works on. `cluster` is the spec's launcher, or the one of the command line."""

    file: SpecFile
    plan: Plan
    root: Path
    cluster: str
    launch: Launch
    catalog: Catalog
    site: str | None = None


def open_campaign(spec: Path, root: Path, catalog: Catalog, *, cluster: str | None, site: str | None) -> Campaign:
    """Read a spec and plan it. Raises InputError for whatever is wrong with it."""
    file = load_spec(spec)
    launch = with_site(file, site)
    plan = make_plan(file, catalog, by_backbone=bool(launch.slurm.by_backbone))
    return Campaign(file, plan, Path(root).absolute(), cluster or launch.cluster, launch, catalog, site)
