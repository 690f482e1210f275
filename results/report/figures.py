"""Which plots a store has something to draw for: what the report shows and `fastmoco report --plots` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from results.report import plots
from results.report.costs import cost_of_pretraining
from results.report.epochs import accuracy_by_epochs
from results.store.lookup import records
from results.store.matching import matches
from results.store.store import Store
from results.tables.table import Table

_MOST_DOTS = 24


@dataclass(frozen=True)
class Plot:
    """A drawing: `name` for its file, `title`, and `about`, which says in words what it shows."""

    name: str
    title: str
    about: str
    figure: Figure


def figures(store: Store, built: Mapping[str, Table]) -> list[Plot]:
    """Every plot of a store; `built` holds at least the tables `summary` and `paper/ablation_grid` of it."""
    summary = built["summary"]
    many = f", the {_MOST_DOTS} that stand highest of {len(summary.rows)}" if len(summary.rows) > _MOST_DOTS else ""
    curves, more = _curves(store)
    cost = cost_of_pretraining(store)
    worth = "" if cost is None else f"{cost.metric} of each pretrained checkpoint by {cost.unit} of its pretraining."
    length = next((made for task in ("linear", "knn", "semi") if (made := accuracy_by_epochs(store, task))), None)
    levels = f", beside {', '.join(length.levels)}" if length and length.levels else ""
    found: list[tuple[str, str, str, Figure | None]] = [
        (
            "every_task",
            "Every task",
            f"A dot for each checkpoint and task{many}, with ± one standard deviation; numbers in the summary table.",
            plots.task_dots(summary, most=_MOST_DOTS),
        ),
        ("cost", "Accuracy against cost", worth, plots.accuracy_against_cost(cost)),
        (
            "length",
            "Accuracy by length of pretraining",
            ""
            if length is None
            else f"{length.metric} of methods pretrained for several lengths{levels}, with ± one standard deviation.",
            plots.accuracy_by_epochs(length),
        ),
        (
            "curves",
            "Learning curves",
            f"The pretraining loss by step{more}.",
            plots.learning_curves(curves, "loss"),
        ),
        (
            "ablation",
            "Grid and combined patches",
            "Heat map; the numbers are in the ablation table.",
            plots.ablation_heatmap(built["paper/ablation_grid"]),
        ),
        (
            "epochs",
            "Accuracy against epochs",
            "ImageNet linear top-1 by pretraining epochs: published curves, and our points as stars.",
            plots.accuracy_against_epochs(store) if len(_imagenet_rows(store)) else None,
        ),
    ]
    return [Plot(name, title, about, figure) for name, title, about, figure in found if figure is not None]


def _curves(store: Store) -> tuple[dict[str, list[dict[str, Any]]], str]:
    """Label -> points of each pretraining that kept its curve, as many as can be told apart, and how many there are."""
    runs = records(store.runs)
    labels = {(run["checkpoint_ref"] or "").removeprefix("run:"): run["checkpoint"] for run in runs}
    found: dict[str, list[dict[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: (run["seed"], run["run_id"])):
        path = Path(run["path"]) / "metrics.jsonl"
        if run["kind"] == "pretrain" and path.is_file():
            label = f"{labels.get(run['run_id']) or run['protocol']}, seed {run['seed']}"
            found.setdefault(label, _points(path))
    shown = dict(list(found.items())[: len(plots.SERIES)])
    return shown, f", {len(shown)} of {len(found)} runs" if len(shown) < len(found) else ""


def _points(path: Path) -> list[dict[str, Any]]:
    """The points of a run's `metrics.jsonl`; a last line that is still being written is left out."""
    lines = path.read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def _imagenet_rows(store: Store) -> pd.DataFrame:
    """The rows that belong into the plot of accuracy against epochs."""
    wanted = {"task": "linear", "data": "imagenet", "metric": "top1", "backbone": "resnet50"}
    return store.rows[matches(store.rows, wanted)]
