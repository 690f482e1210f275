"""From a spec to a plan: a graph of runs with stable ids. Planning imports no torch and computes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaign.spec import CheckpointEntry, EvaluateEntry, PretrainEntry, Resources, SpecFile
from benchmarks.run.request import RANDOM, CheckpointRef, Request
from evaluate.checkpoints.normalizations import preset
from evaluate.checkpoints.sources.references import Located, identity, is_remote, locate
from evaluate.task import TASKS, resolve_protocol
from pretrain.data.catalog import Catalog
from pretrain.recipe import BOOKKEEPING, Recipe
from pretrain.recipes import RECIPES, resolve_recipe
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_json
from pretrain.runtime.settings import Settings


class PlannedRun(Settings):
    """One node of the graph.

    Attributes:
        request: what the run is asked to do.
        label: the checkpoint's name in the spec, for listings.
        needs: ids of the runs that must be done before.
        resources: the spec entry's own wishes, over those of its task.
        pack: how many runs like this may share a SLURM job.
        backbone: of its weights; None for a file into which nobody has looked (only `by_backbone` asks for it).
    """

    request: Request
    label: str
    needs: tuple[str, ...] = ()
    resources: Resources = Resources()
    pack: int | None = None
    backbone: str | None = None

    @property
    def run_id(self) -> str:
        """The run's id, and the name of its directory."""
        return self.request.run_id

    @property
    def title(self) -> str:
        """A short name for tables: what is done, with which weights, with which seed."""
        request = self.request
        name = request.settings_name if request.kind == "pretrain" else f"{request.task}/{request.settings_name}"
        checkpoint = request.checkpoint
        epoch = f"@{checkpoint.epoch}" if checkpoint and checkpoint.epoch is not None else ""
        drawn = checkpoint.init_seed if checkpoint and checkpoint.init_seed != request.seed else None
        draw = "" if drawn is None else f", weights drawn with {drawn}"
        return f"{self.label}{epoch}: {name} on {request.data}, seed {request.seed}{draw}"


class Plan(Settings):
    """A campaign's graph. The runs stand in an order in which each comes after what it needs."""

    name: str
    runs: tuple[PlannedRun, ...]

    def run(self, name: str) -> PlannedRun:
        """The run whose id is `name`, or the only one whose id or title contains it.

        Raises:
            InputError: no run, or several.
        """
        found = (
            [run for run in self.runs if run.run_id == name]
            or [run for run in self.runs if name in run.run_id]
            or [run for run in self.runs if run.title.startswith(name)]
            or [run for run in self.runs if name in run.title]
        )
        if len(found) == 1:
            return found[0]
        listed = [f"{run.request.short()} ({run.title})" for run in (found or self.runs)]
        shown = "; ".join(listed[:5]) + (f"; and {len(listed) - 5} more" if len(listed) > 5 else "")
        if found:
            raise InputError(f"'{name}' is part of {len(found)} runs' ids or titles; name one of {shown}")
        raise InputError(f"no run '{name}' in this campaign; its runs: {shown}")

    def after(self, run_id: str) -> tuple[PlannedRun, ...]:
        """The runs that need `run_id`."""
        return tuple(run for run in self.runs if run_id in run.needs)


@dataclass(frozen=True)
class _Weights:
    """One checkpoint as the evaluations see it; `final` is False for an intermediate one of a pretraining."""

    label: str
    ref: CheckpointRef
    needs: tuple[str, ...] = ()
    final: bool = True
    backbone: str | None = None

    def for_seed(self, seed: int) -> CheckpointRef:
        """Random weights without seeds of their own are drawn anew for each evaluation seed."""
        draw = self.ref.ref.startswith(RANDOM) and self.ref.init_seed is None
        return self.ref.model_copy(update={"init_seed": seed}) if draw else self.ref


def make_plan(file: SpecFile, catalog: Catalog, *, by_backbone: bool = False) -> Plan:
    """The graph of a spec; with `by_backbone` each run says which backbone it is about, files included.

    Raises:
        InputError: a recipe, protocol, data set, backbone or file that does not exist, or a value that is wrong; the
            sentence names the spec's line.
    """
    return _Planner(file, catalog, by_backbone).plan()


def write_plan(plan: Plan, directory: Path) -> None:
    """Write `DIR/plan.json`, whole or not at all."""
    write_json(Path(directory) / "plan.json", plan.model_dump(mode="json"))


class _Planner:
    def __init__(self, file: SpecFile, catalog: Catalog, by_backbone: bool) -> None:
        self.file, self.spec, self.catalog, self.by_backbone = file, file.spec, catalog, by_backbone
        self.identities: dict[str, str] = {}
        self.runs: dict[str, PlannedRun] = {}

    def plan(self) -> Plan:
        weights = [item for label, entry in self.spec.pretrain.items() for item in self._pretrain(label, entry)]
        weights += [item for label, entry in self.spec.checkpoints.items() for item in self._checkpoint(label, entry)]
        for index, entry in enumerate(self.spec.evaluate):
            with self.file.at("evaluate", index):
                self._evaluate(index, entry, weights)
        return Plan(name=self.spec.name, runs=tuple(self.runs.values()))

    def _request(self, **values: Any) -> Request:
        data = values["data"]
        if data not in self.identities:
            self.identities[data] = self.catalog.identity(data)
        return Request(
            campaign=self.spec.name,
            catalog=str(self.catalog.path) if self.catalog.path else None,
            data_identity=self.identities[data],
            device=self.spec.launch.device,
            **values,
        )

    def _pretrain(self, label: str, entry: PretrainEntry) -> Iterator[_Weights]:
        recipe = self._recipe(label, entry)
        with self.file.at("pretrain", label, "data"):
            self.catalog.demand(entry.data, "pictures")
            template = self._request(
                kind="pretrain",
                task="pretrain",
                settings_name=recipe.name,
                settings=recipe.model_dump(mode="json"),
                data=entry.data,
                seed=0,
            )
        for seed in entry.seeds:
            request = template.model_copy(update={"seed": seed}).named(hint=_changes(recipe))
            run = PlannedRun(request=request, label=label, resources=entry.resources, backbone=recipe.backbone)
            self.runs.setdefault(run.run_id, run)
            ref = CheckpointRef(label=label, from_run=run.run_id)
            for epoch in recipe.keep_epochs:
                yield _Weights(label, ref.model_copy(update={"epoch": epoch}), (run.run_id,), False, recipe.backbone)
            yield _Weights(label, ref, (run.run_id,), backbone=recipe.backbone)

    def _recipe(self, label: str, entry: PretrainEntry) -> Recipe:
        is_file = entry.recipe not in RECIPES and Path(entry.recipe).suffix in (".yaml", ".yml")
        with self.file.at("pretrain", label, "recipe"):
            recipe = resolve_recipe(self.file.resolve(entry.recipe) if is_file else entry.recipe)
        with self.file.at("pretrain", label, "set"):
            recipe = recipe.override(entry.set)
        every = [
            e.every_epochs
            for e in self.spec.evaluate
            if e.every_epochs and (not e.checkpoints or label in e.checkpoints)
        ]
        epochs = {epoch for step in every for epoch in range(step, recipe.epochs, step)}
        return recipe.override({"keep_epochs": sorted(epochs | set(recipe.keep_epochs))}) if epochs else recipe

    def _checkpoint(self, label: str, entry: CheckpointEntry) -> Iterator[_Weights]:
        if entry.backbone is not None:
            for seed in entry.seeds or (None,):
                ref = CheckpointRef(label=label, ref=f"{RANDOM}{entry.backbone}", init_seed=seed)
                yield _Weights(label, ref, backbone=entry.backbone)
            return
        assert entry.file is not None
        with self.file.at("checkpoints", label, "file"):
            files = self._files(entry.file)
        if entry.normalization is not None:
            with self.file.at("checkpoints", label, "normalization"):
                preset(entry.normalization)
        for located in files:
            name = label if len(files) == 1 else f"{label}/{_stem(located.path)}"
            with self.file.at("checkpoints", label, "file"):
                sha256, described = identity(located)
            ref = CheckpointRef(
                label=name,
                ref=located.ref,
                sha256=sha256,
                described=described,
                select=entry.select,
                normalization=entry.normalization,
                arch=entry.arch,
            )
            yield _Weights(label, ref, backbone=self._backbone(ref))

    def _backbone(self, ref: CheckpointRef) -> str | None:
        """Which backbone a file holds, where the launch settings ask for it; what is wrong with it is told later."""
        if not self.by_backbone:
            return None
        from evaluate.checkpoints.analyse import analyse

        try:
            found = analyse(
                ref.ref, select=ref.select, normalization=ref.normalization, sha256=ref.sha256, arch=ref.arch
            )
        except InputError:
            return None
        return found.match.backbone if found.match is not None else None

    def _files(self, pattern: str) -> list[Located]:
        if is_remote(pattern):
            return [locate(pattern)]
        return [locate(path) for path in self._paths(pattern)]

    def _paths(self, pattern: str) -> list[Path]:
        path = self.file.resolve(pattern)
        if path.is_file() or path.is_dir():
            return [path]
        found = sorted(each for each in Path(path.anchor).glob(str(path.relative_to(path.anchor))) if each.is_file())
        if not found:
            raise InputError(f"no checkpoint file at {path}")
        return found

    def _evaluate(self, index: int, entry: EvaluateEntry, weights: list[_Weights]) -> None:
        with self.file.at("evaluate", index, "set" if entry.protocol is None else "protocol"):
            protocol = resolve_protocol(entry.task, entry.protocol, entry.set)
        with self.file.at("evaluate", index, "data"):
            self.catalog.demand(entry.data, TASKS[entry.task].data)
            template = self._request(
                kind="evaluate",
                task=entry.task,
                settings_name=protocol.name,
                settings=protocol.model_dump(mode="json"),
                data=entry.data,
                seed=0,
            )
        for item in weights:
            if entry.checkpoints is not None and item.label not in entry.checkpoints:
                continue
            epoch = item.ref.epoch
            if not item.final and (entry.every_epochs is None or epoch is None or epoch % entry.every_epochs):
                continue
            for seed in entry.seeds:
                checkpoint = item.for_seed(seed)
                request = template.model_copy(update={"seed": seed, "checkpoint": checkpoint})
                run = PlannedRun(
                    request=request.named(hint=_hint(checkpoint)),
                    label=checkpoint.label,
                    needs=item.needs,
                    resources=entry.resources,
                    pack=entry.pack,
                    backbone=item.backbone,
                )
                self.runs.setdefault(run.run_id, run)


def _changes(recipe: Recipe) -> str:
    """What differs from the named recipe, for the readable part of the id."""
    if recipe.name not in RECIPES:
        return ""
    differences = recipe.differences(RECIPES[recipe.name])
    words = [f"{key.rpartition('.')[2]}{here}" for key, (here, _) in differences.items() if key not in BOOKKEEPING]
    return "-".join(words[:3])


def _hint(checkpoint: CheckpointRef) -> str:
    epoch = f"-e{checkpoint.epoch}" if checkpoint.epoch is not None else ""
    return f"{checkpoint.label}{epoch}"


def _stem(path: Path) -> str:
    return path.name.removesuffix(".tar").removesuffix(path.suffix if path.suffix != ".tar" else ".pth")
