"""What a launcher finds in a campaign's root before it starts anything: the plan, and a request for each run to do."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from benchmarks.campaign.plan import Plan, PlannedRun, write_plan
from benchmarks.run.request import REQUEST
from benchmarks.run.rundir import campaign_dir, is_done, run_dir
from pretrain.runtime.files import write_json


def prepare(root: Path, plan: Plan) -> None:
    """Write the plan, and for each run that is not done the request that its worker will read."""
    write_plan(plan, campaign_dir(root, plan.name))
    for run in plan.runs:
        if not is_done(root, run.run_id):
            write_request(root, run)


def write_request(root: Path, run: PlannedRun) -> None:
    """Write `request.json`; one that says the same is left alone, for a worker may be reading it.

    It need not outlast a power cut: what is left of it then is replaced here, before the run starts again.
    """
    path = run_dir(root, run.run_id) / REQUEST
    with suppress(FileNotFoundError, ValueError):  # none, or one that a power cut has emptied
        if type(run.request).model_validate_json(path.read_bytes()) == run.request:
            return
    write_json(path, run.request.model_dump(mode="json"), durable=False)
