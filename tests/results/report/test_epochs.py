"""Accuracy by how long a method trained: which runs make a line, and what is drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.recipe import BOOKKEEPING
from results.report import plots
from results.report.epochs import LENGTH, EpochCurves, Point, accuracy_by_epochs
from results.report.figures import figures
from results.row import Metric, Run
from results.store import store
from results.store.store import Store
from results.tables.named import table

Make = Callable[..., Run]


@pytest.fixture
def add(tmp_path: Path, make_run: Make, write_done: Callable[..., Path]) -> Callable[..., None]:
    def one(label: str, epoch: int, value: float, seed: int = 0, task: str = "linear", **settings: Any) -> None:
        """A pretraining and its evaluation."""
        method = settings.setdefault("method", "fast_moco")
        values = {"name": "tiny", "epochs": epoch, "keep_epochs": [], **settings}
        run_id = f"pretrain-{label}-s{seed}"
        pretrain = make_run(label, task="pretrain", kind="pretrain", run_id=run_id, seed=seed, values=values)
        if not (tmp_path / "runs" / run_id).exists():
            loss = Metric(name="loss", value=1.0, unit="", higher_is_better=False)
            write_done(tmp_path, pretrain.model_copy(update={"checkpoint": None}), [loss])
        about = {"epoch": epoch, "method": method}
        write_done(
            tmp_path,
            make_run(label, task=task, pretrain_seed=seed, checkpoint=about),
            [Metric(name="top1", value=value), Metric(name="top1", value=99.0, selection="best")],
        )

    return one


def found(tmp_path: Path) -> Store:
    return store.load([tmp_path])


def test_a_line_joins_the_lengths_of_one_recipe(tmp_path: Path, add: Callable[..., None]) -> None:
    for seed in range(2):
        add("fast_e5", 5, 40.0 + seed, seed)
        add("fast_e10", 10, 50.0 + 2 * seed, seed)
        add("moco_e5", 5, 38.0, seed, grid=1, method="moco")
        add("moco_e10", 10, 47.0, seed, grid=1, method="moco")
    add("once", 10, 60.0, combine=3)
    curves = accuracy_by_epochs(found(tmp_path), "linear")
    assert curves is not None
    assert curves.metric == "linear cifar10 top1, sweep (%)"
    assert curves.lines == {
        "fast_moco": [
            Point(5, 40.5, pytest.approx(0.5**0.5)),
            Point(10, 51.0, pytest.approx(2**0.5)),
        ],
        "moco": [Point(5, 38.0, 0.0), Point(10, 47.0, 0.0)],
    }
    assert curves.levels == {}
    assert accuracy_by_epochs(found(tmp_path), "knn") is None


def test_recipes_of_one_method_that_differ_otherwise_are_lines_of_their_own(
    tmp_path: Path, add: Callable[..., None]
) -> None:
    for lr in (0.1, 0.3):
        for epoch in (5, 10):
            add(f"lr{lr}_e{epoch}", epoch, 40 + epoch * lr, base_lr=lr)
    curves = accuracy_by_epochs(found(tmp_path), "linear")
    assert curves is not None
    assert {name: [point.mean for point in points] for name, points in curves.lines.items()} == {
        "fast_moco": [40.5, 41.0],
        "fast_moco, lr0.3_e10": [41.5, 43.0],
    }


def test_one_length_makes_no_line(tmp_path: Path, add: Callable[..., None]) -> None:
    add("fast", 5, 40.0)
    add("moco", 5, 38.0, grid=1)
    assert accuracy_by_epochs(found(tmp_path), "linear") is None
    assert plots.accuracy_by_epochs(None) is None


def test_random_weights_are_a_level(
    tmp_path: Path, add: Callable[..., None], make_run: Make, write_done: Callable[..., Path]
) -> None:
    add("fast_e5", 5, 40.0)
    add("fast_e10", 10, 50.0)
    for seed, value in enumerate((30.0, 32.0)):
        about = {"ref": "random:cifar_resnet20", "sha256": None, "epoch": None, "pretrain_seed": None}
        random = make_run("random", task="linear", seed=seed, checkpoint=about)
        write_done(tmp_path, random, [Metric(name="top1", value=value)])
    curves = accuracy_by_epochs(found(tmp_path), "linear")
    assert curves is not None
    assert curves.levels == {"random": (31.0, pytest.approx(2**0.5))}
    built = {name: table(name, found(tmp_path)) for name in ("summary", "paper/ablation_grid")}
    (plot,) = [plot for plot in figures(found(tmp_path), built) if plot.name == "length"]
    assert "random" in plot.about
    assert "linear cifar10 top1" in plot.about


def test_the_drawing_holds_the_points_by_epochs_and_by_time() -> None:
    lines = {"a": [Point(5, 40.0, 1.0), Point(10, 50.0, None)], "b": [Point(5, 41.0, 2.0), Point(10, 49.0, 1.0)]}
    curves = EpochCurves("top1 (%)", lines, {"random": (31.0, None)})
    for pace, x in ((None, [5, 10]), ({"a": 1.5, "b": 1.0}, [7.5, 15])):
        figure = plots.accuracy_by_epochs(curves, pace=pace, unit="epochs of b")
        assert figure is not None
        (axes,) = figure.axes
        drawn = {bar.get_label(): bar.lines[0].get_data() for bar in axes.containers}
        np.testing.assert_array_equal(drawn["a"], [x, [40.0, 50.0]])
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["random", "a", "b"]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("epochs of b", "top1 (%)")


def test_what_keeps_the_books_does_not_part_a_line() -> None:
    assert BOOKKEEPING | {"epochs"} == LENGTH
