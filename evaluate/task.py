"""What a task is: a protocol and a backbone in, metrics out. Tasks are found by name and imported when asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluate.protocols.base import TaskProtocol
from pretrain.runtime.errors import InputError, unknown
from results.row import Metric

if TYPE_CHECKING:
    import torch

    from evaluate.checkpoints.load import LoadedBackbone
    from pretrain.data.catalog import Catalog, Kind


@dataclass(frozen=True)
class TaskEntry:
    """Where a task lives.

    Attributes:
        run: "module:function"; the function takes a `Job` and returns metrics.
        protocols: module with `PROTOCOLS` (name -> TaskProtocol) and `DEFAULT` (a name); it imports no torch.
        metric: the name of the metric that stands for the task in a summary.
        summary: one line for listings.
        data: what it opens of a data set: "images" with labels, "objects" or "masks".
    """

    run: str
    protocols: str
    metric: str
    summary: str
    data: Kind = "images"


TASKS: dict[str, TaskEntry] = {
    "knn": TaskEntry("evaluate.knn:run", "evaluate.protocols.knn", "top1", "weighted nearest neighbours, no training"),
    "linear": TaskEntry(
        "evaluate.linear:run", "evaluate.protocols.linear", "top1", "a linear classifier on a frozen backbone"
    ),
    "logreg": TaskEntry(
        "evaluate.logreg:run", "evaluate.protocols.logreg", "top1", "logistic regression by L-BFGS, C chosen on a grid"
    ),
    "svm": TaskEntry("evaluate.svm:run", "evaluate.protocols.svm", "mAP", "linear SVMs on VOC07 classification"),
    "semi": TaskEntry("evaluate.semi:run", "evaluate.protocols.semi", "top1", "fine-tuning with 1 % or 10 % of labels"),
    "finetune": TaskEntry("evaluate.finetune:run", "evaluate.protocols.finetune", "top1", "fine-tuning, all labels"),
    "detection": TaskEntry(
        "evaluate.detection.task:run",
        "evaluate.protocols.detection",
        "AP",
        "object detection and instance segmentation with detectron2",
        "objects",
    ),
    "segmentation": TaskEntry(
        "evaluate.segmentation.task:run",
        "evaluate.protocols.segmentation",
        "mIoU",
        "semantic segmentation with mmsegmentation, fine-tuned or as a linear probe",
        "masks",
    ),
}


@dataclass(frozen=True)
class Job:
    """Everything a task is given.

    Attributes:
        backbone: the weights to measure, in eval mode, on the CPU; the task moves a copy where it works.
        catalog, data: the catalog and the name of the set in it.
        protocol: resolved, with all overrides applied.
        seed: every random choice of the run derives from it.
        device: where to compute.
        out: the run's directory; a task may keep state under `out/state/` to resume, curves and pictures in `out`.
        cache: directory for features shared between runs (and processes).
        told: filled in by the task with what it saw of its data and did with it; it becomes part of the row.
    """

    backbone: LoadedBackbone
    catalog: Catalog
    data: str
    protocol: TaskProtocol
    seed: int
    device: torch.device
    out: Path
    cache: Path
    told: dict[str, Any] = field(default_factory=dict)


def entry(task: str) -> TaskEntry:
    """The entry of a task. Raises InputError for a name that is none, with those that are."""
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    return TASKS[task]


def protocols(task: str) -> dict[str, TaskProtocol]:
    """Every named protocol of a task."""
    return importlib.import_module(entry(task).protocols).PROTOCOLS


def resolve_protocol(task: str, name: str | None, changes: Mapping[str, Any] | None = None) -> TaskProtocol:
    """The named protocol of a task (its default when None) with `changes` applied.

    Raises:
        InputError: unknown task, protocol or field, or a value that the field does not take.
    """
    module = importlib.import_module(entry(task).protocols)
    name = name or module.DEFAULT
    if name not in module.PROTOCOLS:
        raise unknown(f"protocol of {task}", name, module.PROTOCOLS)
    protocol = module.PROTOCOLS[name]
    if changes and {"name", "source", "sources"} & set(changes):
        raise InputError("a protocol's name and sources are not settings")
    return protocol.override(changes or {})


def run(task: str, job: Job) -> list[Metric]:
    """Run a task; the metrics it measured."""
    module, _, function = entry(task).run.partition(":")
    return getattr(importlib.import_module(module), function)(job)
