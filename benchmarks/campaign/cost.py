"""What a run will cost, before it is launched: time and GPU-hours from measured or given step times, and disk."""

from __future__ import annotations

import itertools
import statistics
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaign.plan import Plan, PlannedRun
from benchmarks.campaign.sites import resources_of_run
from benchmarks.campaign.spec import Hints, Launch
from benchmarks.run.rundir import run_dir
from pretrain.data.catalog import Catalog
from pretrain.recipe import Head, Recipe
from pretrain.runtime.curves import read_curves
from pretrain.runtime.errors import InputError
from results.row import read_result

# Backbone -> (parameters, feature width), as `pretrain.backbones.registry.build` makes them; a test compares.
SIZES: dict[str, tuple[int, int]] = {
    "resnet18": (11_176_512, 512),
    "resnet34": (21_284_672, 512),
    "resnet50": (23_508_032, 2048),
    "resnet101": (42_500_160, 2048),
    "resnet152": (58_143_808, 2048),
    "resnet18_cifar": (11_168_832, 512),
    "resnet34_cifar": (21_276_992, 512),
    "resnet50_cifar": (23_500_352, 2048),
    "cifar_resnet20": (269_072, 64),
    "cifar_resnet32": (463_504, 64),
    "cifar_resnet44": (657_936, 64),
    "cifar_resnet56": (852_368, 64),
}
_FLOAT_BYTES = 4
_STATES_KEPT = 2


@dataclass(frozen=True)
class Cost:
    """The estimate of one run. `wall_s` is None where nothing tells; `basis` says what it rests on."""

    wall_s: float | None
    basis: str
    gpus: int
    disk_bytes: int

    @property
    def gpu_hours(self) -> float:
        """GPUs times hours."""
        return (self.wall_s or 0.0) * self.gpus / 3600


class Estimator:
    """Estimates runs of a plan from the runs of it that are done or under way."""

    def __init__(self, plan: Plan, root: Path, launch: Launch, hints: Hints, catalog: Catalog) -> None:
        self.root, self.launch, self.hints, self.catalog = root, launch, hints, catalog
        self.wall_s: dict[tuple[str, ...], list[float]] = defaultdict(list)
        self.step_s: dict[str, list[float]] = defaultdict(list)
        self._images: dict[str, int | None] = {}
        for run in plan.runs:
            self._learn(run)

    def cost(self, run: PlannedRun) -> Cost:
        """The estimate of one run."""
        wall_s, basis = self._wall_s(run)
        resources = resources_of_run(self.launch, run)
        gpus = (resources.nodes or 1) * (resources.gpus_per_node or 0)
        disk = _disk_bytes(run.request.settings) if run.request.kind == "pretrain" else 1 << 20
        return Cost(wall_s, basis, gpus, disk)

    def _learn(self, run: PlannedRun) -> None:
        directory = run_dir(self.root, run.run_id)
        try:
            wall_s = read_result(directory).run.wall_s
        except (FileNotFoundError, InputError):
            wall_s = None
        if wall_s is not None:
            self.wall_s[_key(run)].append(wall_s)
            self.wall_s[run.request.task,].append(wall_s)
        elif run.request.kind == "pretrain" and (directory / "metrics.jsonl").exists():
            steps = [point["step_s"] for point in read_curves(directory / "metrics.jsonl") if point.get("step_s")]
            if steps:
                self.step_s[run.label].append(statistics.median(steps))

    def _wall_s(self, run: PlannedRun) -> tuple[float | None, str]:
        task = run.request.task
        if self.wall_s[_key(run)]:
            return statistics.median(self.wall_s[_key(run)]), "measured on runs like it"
        given = [self.hints.step_s[run.label]] if run.label in self.hints.step_s else []
        step_s = self.step_s[run.label] or given
        if run.request.kind == "pretrain" and step_s:
            steps = self._steps(run)
            if steps is not None:
                basis = "measured" if self.step_s[run.label] else "given"
                return steps * statistics.median(step_s), f"{steps} steps of {statistics.median(step_s):.3g} s, {basis}"
        if task in self.hints.wall_s:
            return self.hints.wall_s[task], "given"
        if run.request.kind == "evaluate" and self.wall_s[task,]:
            return statistics.median(self.wall_s[task,]), f"measured on other runs of {task}"
        return None, "no run like it is done, and the spec's 'estimate' says nothing"

    def _steps(self, run: PlannedRun) -> int | None:
        """Steps of a pretraining: epochs times whole batches of the training split."""
        settings, data = run.request.settings, run.request.data
        if data not in self._images:
            try:
                self._images[data] = len(self.catalog.pictures(data, "train"))
            except InputError:
                self._images[data] = None
        images = settings.get("train_images") or self._images[data]
        return None if images is None else settings["epochs"] * (images // settings["global_batch_size"])


def _key(run: PlannedRun) -> tuple[str, ...]:
    return (
        run.request.task,
        run.label if run.request.kind == "pretrain" else run.request.settings_name,
        run.request.data,
    )


def _disk_bytes(settings: dict[str, Any]) -> int:
    """The two states a pretraining keeps (weights, momentum copy, the optimizer's buffers) and its backbone files."""
    recipe = Recipe.model_validate(settings)
    backbone, width = SIZES.get(recipe.backbone, SIZES["resnet50"])
    encoder = backbone + _head_parameters(recipe.projector, width)
    state = 3 * encoder + 2 * _head_parameters(recipe.predictor, recipe.projector.out)
    files = 1 + len(recipe.keep_epochs)
    return _FLOAT_BYTES * (_STATES_KEPT * state + files * backbone)


def _head_parameters(head: Head, width: int) -> int:
    widths = [width, *[head.hidden] * (head.layers - 1), head.out]
    return sum(a * b for a, b in itertools.pairwise(widths))
