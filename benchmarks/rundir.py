"""Where things lie under a campaign's root: ROOT/runs/RUN_ID, ROOT/campaigns/NAME, ROOT/cache."""

from __future__ import annotations

from pathlib import Path

from benchmarks.campaign import Plan, PlannedRun, write_plan
from benchmarks.request import REQUEST
from pretrain.files import write_json


def run_dir(root: Path, run_id: str) -> Path:
    """The directory of a run."""
    return Path(root) / "runs" / run_id


def campaign_dir(root: Path, name: str) -> Path:
    """Where a campaign keeps its plan, the logs of its SLURM jobs and its tables."""
    return Path(root) / "campaigns" / name


def is_done(root: Path, run_id: str) -> bool:
    """Whether the run has a result."""
    return (run_dir(root, run_id) / "result.json").exists()


def prepare(root: Path, plan: Plan) -> None:
    """Write the plan, and for each run that is not done the request that its worker will read."""
    write_plan(plan, campaign_dir(root, plan.name))
    for run in plan.runs:
        if not is_done(root, run.run_id):
            write_request(root, run)


def write_request(root: Path, run: PlannedRun) -> None:
    """Write `request.json`; one that says the same is left alone, for a worker may be reading it."""
    path = run_dir(root, run.run_id) / REQUEST
    wanted = run.request.model_dump(mode="json")
    if path.exists() and type(run.request).model_validate_json(path.read_text(encoding="utf-8")) == run.request:
        return
    write_json(path, wanted)
