"""`campaign explain`: all about one run, in words."""

from __future__ import annotations

from benchmarks.campaign.opened import Campaign
from benchmarks.campaign.plan import Plan
from benchmarks.campaign.sites import resources_of_run
from benchmarks.campaign.status import clock, survey
from benchmarks.launch.endings import tried
from benchmarks.launch.show import estimator_of, jobs_of
from benchmarks.launch.wave import history_of
from benchmarks.run.request import CheckpointRef, Request
from benchmarks.run.rundir import run_dir
from evaluate.task import resolve_protocol
from pretrain.recipes import resolve_recipe
from pretrain.runtime.errors import InputError


def print_explanation(campaign: Campaign, name: str) -> None:
    """All about one run."""
    run = campaign.plan.run(name)
    row = next(row for row in survey(campaign.plan, campaign.root, jobs_of(campaign)) if row.run.run_id == run.run_id)
    request, checkpoint = run.request, run.request.checkpoint
    cost = estimator_of(campaign).cost(run)
    resources = resources_of_run(campaign.launch, run, campaign.file.spec.estimate).model_dump(exclude_none=True)
    estimate = "unknown" if cost.wall_s is None else f"{clock(cost.wall_s)}, {cost.gpu_hours:.3g} GPU-hours"
    lines = {
        "run": run.run_id,
        "what": run.title,
        "state": f"{row.state}{f': {row.detail}' if row.detail else ''}",
        "directory": str(run_dir(campaign.root, run.run_id)),
        "settings": _settings(request),
        "data": f"{request.data} (identity {request.data_identity[:12]}), catalog {request.catalog or 'built-in'}",
        "checkpoint": _weights(campaign.plan, checkpoint) if checkpoint else "-",
        "needs": ", ".join(run.needs) or "nothing",
        "needed by": ", ".join(other.run_id for other in campaign.plan.after(run.run_id)) or "no run",
        "resources": ", ".join(f"{key}={value}" for key, value in resources.items()),
        "estimate": f"{estimate} ({cost.basis})",
        "disk": f"about {cost.disk_bytes / 2**20:,.0f} MiB",
    }
    if ended := tried(history_of(campaign.root, run)):
        lines["tried"] = f"\n{' ' * 12}".join(ended)
    for key, value in lines.items():
        print(f"{key + ':':12}{value}")


def _settings(request: Request) -> str:
    """A preset by its name, and what differs from it."""
    pretraining = request.kind == "pretrain"
    words = f"fastmoco recipes {request.settings_name}"
    if not pretraining:
        words = f"fastmoco protocols {request.task} {request.settings_name}"
    try:
        preset = (
            resolve_recipe(request.settings_name)
            if pretraining
            else resolve_protocol(request.task, request.settings_name)
        )
    except InputError:  # a recipe of somebody's own file: nothing to hold it against
        return f"{request.settings_name}, from a file: " + ", ".join(f"{k} {v}" for k, v in request.settings.items())
    differences = preset.differences(type(preset).model_validate(request.settings))
    changed = [f"{key} {there} (the preset has {here})" for key, (here, there) in differences.items()]
    lines = [f"{request.settings_name} (all of it: {words})", *changed]
    return f"\n{' ' * 12}  ".join(lines)


def _weights(plan: Plan, checkpoint: CheckpointRef) -> str:
    """Where an evaluation's weights come from, in words."""
    words = [checkpoint.label]
    if checkpoint.from_run is not None:
        made_by = plan.run(checkpoint.from_run)
        epoch = "" if checkpoint.epoch is None else f" after epoch {checkpoint.epoch}"
        words.append(f"made by {made_by.title}{epoch} ({made_by.run_id})")
    else:
        words.append(checkpoint.ref)
    if checkpoint.init_seed is not None:
        words.append(f"drawn with seed {checkpoint.init_seed}")
    values = {name: getattr(checkpoint, name) for name in ("sha256", "select", "normalization")}
    return ", ".join([*words, *(f"{name} {value}" for name, value in values.items() if value is not None)])
