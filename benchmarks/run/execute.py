"""Execute one run in its directory: write `run.json`, do the work, write `result.json`. Commands and workers share it.

A run's directory (design, section 3.3): `run.json` what went in, `log.txt`, `metrics.jsonl` and TensorBoard events,
`attempts.jsonl` one line for each start and each end of a process that worked on it, `state/` while it is unfinished,
and at last `result.json`.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.run.leftovers import nothing_left_behind
from benchmarks.run.memory import out_of_memory_explained
from benchmarks.run.provenance import describe_run, device_for, device_name, now, peak_mem_bytes
from benchmarks.run.request import RANDOM, Request
from pretrain.data.catalog import Catalog
from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError, Interrupted
from pretrain.runtime.files import write_json
from results.row import Checkpoint, Metric, Result, Run, read_result, write_result

if TYPE_CHECKING:
    import torch

log = logging.getLogger("fastmoco")

ATTEMPTS = "attempts.jsonl"


def execute(request: Request, out: Path, *, resume: bool = True) -> Result | None:
    """Do one run in `out`, or go on with it; a run that is done there is not done again.

    Returns:
        The result; None in the ranks of a distributed run that write nothing.

    Raises:
        InputError: the request is wrong. What this call has written to `out` is taken away, unless training has begun.
        RunFailedError, Interrupted: as the task raises them.
    """
    out = Path(out)
    if (out / "result.json").exists():
        return _done_before(request, out)
    from pretrain.runtime.distributed import ranks_from_environment

    if not ranks_from_environment().is_main:
        _work(request, out, resume)
        return None
    with nothing_left_behind(out), _attempt(out) as began:
        # Everything that can be checked is checked before the first file is written.
        run = describe_run(request)
        _refuse_another_run(run, out)
        write_json(out / "run.json", run.model_dump(mode="json"))
        checkpoint, metrics, seen = _work(request, out, resume)
        ended = {
            "data": run.data.model_copy(update={"seen": seen}),
            "checkpoint": checkpoint,
            "device": device_name(device_for(request.device)),
            "ended": now(),
            "wall_s": round(_earlier_wall_s(out) + time.monotonic() - began, 3),
            "peak_mem_bytes": peak_mem_bytes(),
        }
        result = Result(run=run.model_copy(update=ended), metrics=metrics)
        write_result(out, result)
    return result


def _work(request: Request, out: Path, resume: bool) -> tuple[Checkpoint | None, list[Metric], dict[str, Any] | None]:
    """The weights that were measured, the metrics, and what was seen of the data."""
    catalog = Catalog.load(Path(request.catalog) if request.catalog else None)
    device = device_for(request.device)
    with out_of_memory_explained(request):
        if request.kind == "pretrain":
            return None, _pretrain(request, catalog, device, out, resume), None
        return _evaluate(request, catalog, device, out)


def _pretrain(request: Request, catalog: Catalog, device: torch.device, out: Path, resume: bool) -> list[Metric]:
    from pretrain.recipe import Recipe
    from pretrain.train import train

    recipe = Recipe.model_validate(request.settings)
    images = catalog.pictures(request.data, "train")
    if not images.classes:
        log.info("%s/train: %d images without labels", request.data, len(images))
    result = train(recipe, images, seed=request.seed, out=out, device=device, resume=resume)
    return [pretrain_metric(name, value) for name, value in result.metrics.items()]


def pretrain_metric(name: str, value: float) -> Metric:
    """A figure of the pretraining as a metric: accuracies are percents, `_s` and `_bytes` are units, losses sink."""
    percent = name.startswith(("top", "knn"))
    unit = "%" if percent else "s" if name.endswith("_s") else "bytes" if name.endswith("_bytes") else ""
    sinks = "loss" in name or unit in ("s", "bytes")
    return Metric(name=name, value=float(value), unit=unit, higher_is_better=not sinks)


def _evaluate(
    request: Request, catalog: Catalog, device: torch.device, out: Path
) -> tuple[Checkpoint | None, list[Metric], dict[str, Any] | None]:
    from evaluate import task
    from evaluate.checkpoints.load import load_backbone

    reference = request.checkpoint
    assert reference is not None
    protocol = task.resolve_protocol(request.task, request.settings_name)
    protocol = type(protocol).model_validate(request.settings)
    options: dict[str, Any] = {} if reference.normalization is None else {"normalization": reference.normalization}
    path = reference.path(out)
    loaded = load_backbone(path, select=reference.select, arch=reference.arch, seed=reference.init_seed or 0, **options)
    if reference.sha256 is not None and loaded.sha256 != reference.sha256:
        raise InputError(
            f"{path} is not the file that was planned: its SHA-256 was {reference.sha256}, now {loaded.sha256}"
        )
    if reference.described is not None and loaded.described != reference.described:
        raise InputError(f"what the files beside {path} say (config.json ...) has changed since it was planned")
    metadata = loaded.metadata
    checkpoint = Checkpoint(
        label=reference.label,
        ref=reference.ref or f"run:{reference.from_run}",
        sha256=loaded.sha256,
        method=metadata.method,
        backbone=metadata.backbone,
        recipe=metadata.recipe,
        epoch=metadata.epoch,
        # Of weights drawn at random the seed of the draw, which may differ from the evaluation's.
        pretrain_seed=reference.init_seed if reference.ref.startswith(RANDOM) else metadata.seed,
        pretrain_data=metadata.data,
        format=loaded.format,
        prefix=metadata.prefix,
        select=reference.select,
        normalization=metadata.normalization.model_dump(mode="json"),
    )
    job = task.Job(
        backbone=loaded,
        catalog=catalog,
        data=request.data,
        protocol=protocol,
        seed=request.seed,
        device=device,
        out=out,
        cache=cache_dir(out, reference.from_run is not None or request.campaign is not None),
    )
    metrics = task.run(request.task, job)
    return checkpoint, metrics, job.told or None


def cache_dir(out: Path, in_campaign: bool) -> Path:
    """Where features are shared: ROOT/cache for the runs ROOT/runs/ID of a campaign, else the user's own cache."""
    if in_campaign:
        return out.absolute().parent.parent / "cache"
    return cache_root()


def _done_before(request: Request, out: Path) -> Result:
    result = read_result(out)
    if result.run.run_id != request.run_id:
        raise InputError(
            f"{out} holds the finished run {result.run.run_id}, not {request.run_id}; give another directory"
        )
    log.info("%s is done: its result stands in %s", request.run_id, out / "result.json")
    return result


def _refuse_another_run(run: Run, out: Path) -> None:
    """An unfinished run may go on when its data has changed, as when a damaged test image was replaced.

    Whether its state can still be used the training decides, which knows the images that it was trained on.
    """
    path = out / "run.json"
    if not path.exists():
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    if begun.get("run_id") == run.run_id:
        return
    now = run.model_dump(mode="json")
    same = all(begun.get(key) == now[key] for key in ("kind", "task", "protocol", "seed", "checkpoint"))
    if not (same and (begun.get("data") or {}).get("name") == run.data.name):
        raise InputError(
            f"{out} holds the unfinished run {begun.get('run_id')}, not {run.run_id}; give another directory"
        )
    log.info("the files of '%s' have changed since this run began", run.data.name)


@contextmanager
def _attempt(out: Path) -> Iterator[float]:
    """Note in `attempts.jsonl` that a process works on this run, and how it ended. Yields the time it began."""
    began = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    who = {"host": socket.gethostname(), "pid": os.getpid(), "slurm_job_id": os.environ.get("SLURM_JOB_ID")}
    if "SLURMD_NODENAME" in os.environ:
        who["node"] = os.environ["SLURMD_NODENAME"]
    _note(out, {"event": "start", "at": now(), **who})
    outcome = "failed"
    try:
        yield began
        outcome = "done"
    except Interrupted:
        outcome = "interrupted"
        raise
    finally:
        _note(out, {"event": outcome, "at": now(), "wall_s": round(time.monotonic() - began, 3), **who})


def attempts(out: Path) -> list[dict[str, Any]]:
    """The lines of `attempts.jsonl`, oldest first."""
    path = Path(out) / ATTEMPTS
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # a line that a kill cut short
            continue
    return lines


def _note(out: Path, line: dict[str, Any]) -> None:
    if not out.exists():
        return
    with (out / ATTEMPTS).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def _earlier_wall_s(out: Path) -> float:
    return sum(line.get("wall_s", 0.0) for line in attempts(out))
