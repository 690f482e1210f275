"""Plots: what is drawn is what the rows hold, the same bytes each time, and told apart without colour."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from results.report import costs, plots
from results.report.epochs import EpochCurves, Point
from results.row import Metric
from results.store import store
from results.store.store import Store
from results.tables import named
from results.tables.html import environment


@pytest.fixture
def found(full_campaign: Path) -> Store:
    return store.load([full_campaign])


def points(figure: Figure, label: str) -> list[tuple[float, float]]:
    """(x, y) of the drawn line of that label."""
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == label]
    return [tuple(pair) for pair in np.column_stack(line.get_data()).tolist()]


def curves(name: str) -> list[dict[str, float | None]]:
    return [{"step": step, "loss": None if step == 30 else len(name) - step / 100} for step in range(0, 50, 10)]


LENGTHS = EpochCurves(
    "top1 (%)",
    {"a": [Point(5, 40, 1), Point(10, 50, None)], "b": [Point(5, 41, 2), Point(10, 48, 1)]},
    {"random": (31.0, None)},
)
FIGURES: dict[str, Callable[[Store], Figure | None]] = {
    "epochs": plots.accuracy_against_epochs,
    "curves": lambda _: plots.learning_curves({name: curves(name) for name in ("ab", "abc")}, "loss"),
    "length": lambda _: plots.accuracy_by_epochs(LENGTHS),
    "cost": lambda found: plots.accuracy_against_cost(costs.cost_of_pretraining(found)),
    "dots": lambda found: plots.task_dots(named.table("summary", found)),
    "ablation": lambda found: plots.ablation_heatmap(named.table("paper/ablation_grid", found)),
}


def test_epochs_are_the_published_curves_and_our_points(found: Store) -> None:
    figure = plots.accuracy_against_epochs(found)
    assert points(figure, "Fast-MoCo (published)") == [(100, 73.5), (200, 75.1), (400, 75.5)]
    assert points(figure, "BYOL (published)") == [(100, 66.5), (200, 70.6), (400, 73.2), (1000, 74.3)]
    assert points(figure, "MoCo v2 (published)") == [(200, 67.5), (800, 71.1)]
    assert points(figure, "fast_moco (ours)") == [(100, 73.1), (200, 75.0)]


def test_curves_leave_out_what_was_not_finite_and_thin_out_long_runs() -> None:
    figure = FIGURES["curves"](Store(None, None, []))  # type: ignore[arg-type]
    assert figure is not None
    assert points(figure, "ab") == [(0, 2.0), (10, 1.9), (20, 1.8), (40, 1.6)]
    long = plots.learning_curves({"one": [{"step": step, "loss": 1.0} for step in range(100_000)]}, "loss")
    assert long is not None
    assert len(points(long, "one")) == 400
    assert plots.learning_curves({"one": [{"step": 0, "loss": 1.0}]}, "accuracy") is None


def test_cost_is_wall_time_times_processes(found: Store) -> None:
    cost = costs.cost_of_pretraining(found.__class__(found.rows[found.rows["data"] == "cifar10"], found.runs, []))
    assert cost is not None
    assert (cost.unit, cost.metric) == ("GPU-hours", "linear cifar10 top1, sweep (%)")
    assert cost.points == {
        "fast_moco": (pytest.approx(4.02), pytest.approx(71.0)),
        "moco": (pytest.approx(2.02), pytest.approx(70.5)),
    }
    assert costs.cost_of_pretraining(found.__class__(found.rows[:0], found.runs[:0], [])) is None


def test_dots_stand_where_the_table_says(found: Store) -> None:
    table = named.table("summary", found)
    figure = plots.task_dots(table)
    assert figure is not None
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert [panel.get_title() for panel in panels] == ["\n".join(column.label) for column in table.columns]
    for j, panel in enumerate(panels):
        places = {
            (float(line.get_xdata()[0]), int(line.get_ydata()[0])) for line in panel.lines if len(line.get_xdata())
        }
        names = [label.get_text() for label in panels[0].get_yticklabels()]
        measured = [(label, row[j].measured) for row, label in zip(table.cells, table.rows, strict=True)]
        wanted = {(name, one.mean) for name, one in measured if one}
        assert wanted <= {(names[y], x) for x, y in places}
        assert len(panel.containers) == len(wanted)


def test_of_many_rows_the_highest_are_drawn(make_run, write_done, tmp_path: Path) -> None:
    for index in range(30):
        write_done(tmp_path, make_run(f"c{index:02d}"), [Metric(name="top1", value=50 + index)])
    figure = plots.task_dots(named.table("summary", store.load([tmp_path])))
    assert figure is not None
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [f"c{index:02d}" for index in range(6, 30)]


def test_the_heat_map_holds_each_number_once(found: Store) -> None:
    figure = FIGURES["ablation"](found)
    assert figure is not None
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(texts) == sorted(["50.00", "60.00", "65.00", "62.50"] + ["–"] * 8)
    values = figure.axes[0].images[0].get_array()
    assert values[1, 1] == 65.0
    # Dark is high, in grey as well: lightness falls from the lowest to the highest.
    map_ = figure.axes[0].images[0].cmap
    grey = [np.dot(map_(x)[:3], (0.2126, 0.7152, 0.0722)) for x in np.linspace(0, 1, 20)]
    assert all(one > other for one, other in itertools.pairwise(grey))


@pytest.mark.parametrize("name", sorted(FIGURES))
def test_same_rows_same_bytes(name: str, found: Store, tmp_path: Path) -> None:
    written = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        figure = FIGURES[name](found)
        assert figure is not None
        svg, png = plots.save(figure, tmp_path / folder / name)
        written.append((svg.read_bytes(), png.read_bytes()))
    assert written[0] == written[1]
    assert not re.search(rb"<dc:date>|<dc:creator>", written[0][0])
    assert b"Software" not in written[0][1]
    assert Image.open(io.BytesIO(written[0][1])).width >= 800


def test_series_are_told_apart_without_colour() -> None:
    """No two lines share marker or dash."""
    assert len({*plots._MARKERS}) == len({*map(str, plots._DASHES)}) == len(plots.SERIES) == 7


# Machado, Oliveira and Fernandes (2009), severity 1, for linear RGB.
SIGHT = {
    "full colour": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_differ_to_every_sight_and_stand_out_from_the_paper(scheme: str) -> None:
    """Any two differ by 0.29 in sRGB (0 to 1.7); contrast with the paper 3:1, as WCAG 2.1 wants of graphics."""
    css = environment().get_template("style.css").render()
    light, dark = css.split("prefers-color-scheme: dark", 1)
    colours = dict(re.findall(r"--(s\d|paper): (#\w{6})", {"light": light, "dark": dark}[scheme]))
    series = [colours[f"s{index}"] for index in range(1, 8)]
    if scheme == "light":
        assert tuple(series) == plots.SERIES
    for colour in series:
        ratio = (luminance(colour) + 0.05) / (luminance(colours["paper"]) + 0.05)
        assert max(ratio, 1 / ratio) >= 3
    for sight in SIGHT.values():
        for one, other in itertools.combinations(series, 2):
            assert np.linalg.norm(seen(one, sight) - seen(other, sight)) > 0.29, (one, other)


def linear(colour: str) -> np.ndarray:
    return np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)])


def luminance(colour: str) -> float:
    return float(linear(colour) @ (0.2126, 0.7152, 0.0722))


def seen(colour: str, sight: object) -> np.ndarray:
    mixed = np.clip(np.array(sight) @ linear(colour), 0, 1)
    return np.where(mixed <= 0.0031308, 12.92 * mixed, 1.055 * mixed ** (1 / 2.4) - 0.055)
