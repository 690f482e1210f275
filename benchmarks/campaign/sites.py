"""Site profiles: what a cluster wants to hear, in a file of the user's, so that a spec is the same everywhere.

The file is `$FASTMOCO_SITES`, or `~/.config/fastmoco/sites.yaml`:

    jean:
      slurm: {partition: gpu, account: abc@v100, constraint: v100-32g, setup: ["module load cuda/12.8"]}
      tasks: {knn: {partition: prepost, timeout_min: 60}}
      max_running: 20
"""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import Field, RootModel, field_validator

from benchmarks.campaign.plan import PlannedRun
from benchmarks.campaign.spec import KINDS, Hints, Launch, Resources, SharedResources, SpecFile
from pretrain.runtime.errors import InputError, unknown
from pretrain.runtime.settings import Settings, load_yaml, validate

# What a job gets when neither spec nor site says anything.
DEFAULTS = Resources(nodes=1, gpus_per_node=0, timeout_min=240, signal_delay_s=90)


class Site(Settings):
    """One cluster: what every job asks for there, what the jobs of a task ask for, and its limit of running jobs."""

    slurm: SharedResources = SharedResources()
    tasks: dict[str, Resources] = {}
    max_running: int | None = Field(default=None, ge=1)

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: dict[str, Resources]) -> dict[str, Resources]:
        for task in tasks:
            if task not in KINDS:
                raise ValueError(str(unknown("task", task, KINDS)))
        return tasks


class _Sites(RootModel[dict[str, Site]]):
    pass


def sites_file() -> Path:
    """Where the user's profiles lie."""
    given = os.environ.get("FASTMOCO_SITES")
    return Path(given).expanduser() if given else Path("~/.config/fastmoco/sites.yaml").expanduser()


def load_sites() -> dict[str, Site]:
    """Every profile; none when there is no file. Raises InputError, with the line, for a file that is wrong."""
    path = sites_file()
    if not path.exists() and "FASTMOCO_SITES" not in os.environ:
        return {}
    values, lines = load_yaml(path)
    return validate(_Sites, values or {}, path=path, lines=lines).root


def with_site(file: SpecFile, name: str | None) -> Launch:
    """The spec's launch settings over those of the site that the command line, the spec or $FASTMOCO_SITE names.

    Raises:
        InputError: no such profile.
    """
    launch = file.spec.launch
    name = name or launch.site or os.environ.get("FASTMOCO_SITE")
    if name is None:
        return launch
    sites = load_sites()
    if name not in sites:
        raise InputError(f"{unknown('site', name, sites)} (profiles are read from {sites_file()})")
    site = sites[name]
    tasks = {
        task: launch.tasks.get(task, Resources()).over(site.tasks.get(task, Resources()))
        for task in {**site.tasks, **launch.tasks}
    }
    return launch.model_copy(
        update={
            "slurm": _shared(launch.slurm, site.slurm),
            "tasks": tasks,
            "max_running": launch.max_running or site.max_running,
        }
    )


def _shared(own: SharedResources, site: SharedResources) -> SharedResources:
    patterns = {
        "by_backbone": own.by_backbone | {k: v for k, v in site.by_backbone.items() if k not in own.by_backbone},
        "by_checkpoint": own.by_checkpoint
        | {k: v for k, v in site.by_checkpoint.items() if k not in own.by_checkpoint},
    }
    return SharedResources(**own.over(site).model_dump(), **patterns)


def resources_of(
    launch: Launch, task: str, own: Resources, *, label: str = "", backbone: str | None = None
) -> Resources:
    """What a job asks for: its own wishes, its task's, its checkpoint's, its backbone's, everybody's, `DEFAULTS`."""
    general: Resources = launch.slurm
    if task != "pretrain":
        # Evaluations are one process on one GPU; a campaign's nodes are for pretraining.
        gpus = min(general.gpus_per_node or 0, 0 if task == "tables" else 1)
        general = general.model_copy(update={"nodes": 1, "gpus_per_node": gpus, "tasks_per_node": 1})
    special = _first(launch.slurm.by_checkpoint, label).over(_first(launch.slurm.by_backbone, backbone or ""))
    found = own.over(launch.tasks.get(task, Resources())).over(special).over(general).over(DEFAULTS)
    if found.tasks_per_node is None:
        found = found.model_copy(update={"tasks_per_node": max(found.gpus_per_node or 0, 1)})
    return found


def resources_of_run(launch: Launch, run: PlannedRun, hints: Hints | None = None) -> Resources:
    """What the job of a run asks for; `hints` says how much memory a task needs where nothing else does."""
    label, task = run.label, run.request.task
    named = run.request.checkpoint.label if run.request.checkpoint else label
    found = resources_of(launch, task, run.resources, label=named, backbone=run.backbone)
    if found.mem_gb is None and hints is not None and task in hints.mem_gb:
        found = found.model_copy(update={"mem_gb": hints.mem_gb[task]})
    return found


def _first(patterns: dict[str, Resources], name: str) -> Resources:
    return next((found for pattern, found in patterns.items() if name and fnmatchcase(name, pattern)), Resources())
