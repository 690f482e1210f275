"""Plots of what was measured, beside what was published: SVG and PNG, told apart by marker and line as by colour.

Each function gives a matplotlib figure, None when there is nothing to draw; `save` writes it. The colours were searched
for: any two differ plainly to people with protanopia and deuteranopia (simulated after Machado et al., 2009), and each
has contrast 3:1 with the paper. Marker and dash tell the same, so that grey is enough.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pretrain.runtime.files import write_bytes
from results.report.costs import Cost
from results.report.epochs import EpochCurves
from results.store.published import find
from results.store.store import Store
from results.tables.table import Table

INK, GRID = "#191c20", "#d8dce1"
SERIES = ("#043ca9", "#e67117", "#1ba779", "#4a0640", "#604402", "#2799ea", "#535961")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# The plus and the cross are drawn larger: their arms are thinner than a disc.
_SIZES = (7, 6.5, 7.5, 7, 7.5, 9, 8.5)
_DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)), (0, (1, 1)), (0, (8, 3)), (0, (3, 1, 1, 1)))
_FIGURE = "Fast-MoCo paper (arXiv:2207.08220), Fig. 1(a) linear accuracy vs epochs"
# The figure's own curves; where another source gives more points of the same numbers, that one.
_RIVALS = {
    "BYOL": _FIGURE,
    "SimSiam": "SimSiam paper (arXiv:2011.10566), Table 4",
    "NNCLR": _FIGURE,
    "MoCo v2": _FIGURE,
    "MoCo v3": "facebookresearch/moco-v3 README, ResNet-50 linear classification table",
    "Fast-MoCo": "Fast-MoCo repo README, Pretrained Models table",
}
# A line of more points than this is no clearer, only larger.
_POINTS = 400
# Typed as Any: the names matplotlib accepts differ from version to version.
_STYLE: Any = {
    "svg.hashsalt": "fastmoco",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": INK,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def styled() -> AbstractContextManager[None]:
    """Inside it a figure's axes come out in the manner of all drawings here."""
    return mpl.rc_context(_STYLE)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write STEM.svg and STEM.png (200 dots an inch); the same figure gives the same bytes."""
    paths = [Path(stem).with_suffix(suffix) for suffix in (".svg", ".png")]
    write_bytes(paths[0], svg(figure).encode())
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=200, facecolor="white", metadata={"Software": None})
    write_bytes(paths[1], stream.getvalue())
    return paths


def svg(figure: Figure, *, text_as_text: bool = False) -> str:
    """The figure as SVG; `text_as_text` keeps letters as letters (small, and read aloud) instead of outlines."""
    stream = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.fonttype": "none" if text_as_text else "path"}):
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return stream.getvalue()


def accuracy_against_epochs(store: Store, *, data: str = "imagenet") -> Figure:
    """The paper's figure 1(a): top-1 of the linear classifier by pretraining epochs, ours on top of the published."""
    figure, axes = _figure("pretraining epochs", "ImageNet linear top-1 (%)")
    for index, (method, source) in enumerate(_RIVALS.items()):
        rows = find({"method": method, "source": source, "task": "linear", "metric": "top1", "variant": None})
        points = rows.dropna(subset=["pretrain_epochs"]).drop_duplicates("pretrain_epochs")
        points = points.sort_values("pretrain_epochs")
        x = points["pretrain_epochs"].to_numpy(dtype=float)
        _line(axes, index, x, points["value"].to_numpy(), f"{method} (published)")
    ours = store.select(task="linear", data=data, metric="top1", backbone="resnet50", selection="last")
    for method, rows in ours.dropna(subset=["epoch"]).groupby("method"):
        mean = rows.groupby("epoch")["value"].mean()
        axes.plot(mean.index.to_numpy(dtype=float), mean, "*-", ms=13, lw=1.2, color=INK, mec="white",
                  label=f"{method} (ours)")  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks([100, 200, 400, 800, 1000], ["100", "200", "400", "800", "1000"])
    axes.minorticks_off()
    axes.margins(y=0.09)
    _legend(axes, loc="lower right")
    return figure


def accuracy_by_epochs(
    curves: EpochCurves | None, *, pace: Mapping[str, float] | None = None, unit: str = "pretraining epochs"
) -> Figure | None:
    """A line for each method with one standard deviation over pretrainings, by how long they trained.

    Weights without any pretraining are a dotted level across the drawing. `pace` (method -> what an epoch of it takes)
    draws by time, in that `unit`.
    """
    if curves is None:
        return None
    figure, axes = _figure(unit, curves.metric)
    for index, (name, points) in enumerate(curves.lines.items()):
        x = np.array([point.epochs for point in points]) * (pace[name] if pace else 1.0)
        axes.errorbar(x, [point.mean for point in points], yerr=[point.std or 0 for point in points], label=name,
                      capsize=3, elinewidth=1.4, **look(index))  # fmt: skip
    for name, (mean, _) in curves.levels.items():
        axes.axhline(mean, color=INK, lw=1.2, linestyle=(0, (1, 2)), label=name)
    axes.set_xscale("log", base=2)
    ticks = sorted({point.epochs for points in curves.lines.values() for point in points})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.margins(y=0.09)
    _legend(axes, loc="upper left")  # curves rise, and a level lies low
    return figure


def learning_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> Figure | None:
    """One line a run: the value `name` of its points (`pretrain.runtime.curves.read_curves`) by step."""
    figure, axes = _figure("step", name)
    drawn = 0
    for label, points in curves.items():
        pairs = [(point["step"], point[name]) for point in points if point.get(name) is not None]
        pairs = pairs[:: max(1, math.ceil(len(pairs) / _POINTS))]
        if pairs:
            x, y = np.array(pairs, dtype=float).T
            _line(axes, drawn, x, y, label, every=max(1, len(x) // 8))
            drawn += 1
    if not drawn:
        return None
    _legend(axes)
    return figure


def accuracy_against_cost(cost: Cost | None) -> Figure | None:
    """Accuracy by what pretraining took, a point for each checkpoint: whether a method is worth its price."""
    if cost is None:
        return None
    figure, axes = _figure(f"{cost.unit} of pretraining", cost.metric)
    most = max(hours for hours, _ in cost.points.values())
    for index, (label, (hours, accuracy)) in enumerate(sorted(cost.points.items())):
        axes.plot(
            [hours], [accuracy], _MARKERS[index % 7], ms=1 + _SIZES[index % 7], color=SERIES[index % 7], mec="white"
        )
        # To the left of what stands at the right edge, so that no label leaves the drawing.
        right = hours < 0.7 * most
        axes.annotate(label, (hours, accuracy), xytext=(8 if right else -8, 5), textcoords="offset points",
                      ha="left" if right else "right", fontsize=8.5, color=INK)  # fmt: skip
    axes.margins(0.16)
    axes.set_xlim(-0.04 * most, 1.08 * most)
    return figure


def task_dots(table: Table, *, most: int = 24) -> Figure | None:
    """A panel for each column of a table, a dot for each row with its spread: which weights are good at what.

    Of more than `most` rows those are drawn that stand highest on average over the panels.
    """
    panels = [(j, column) for j, column in enumerate(table.columns) if any(row[j].measured for row in table.cells)]
    shown = _highest(table, [j for j, _ in panels], most)
    if not panels:
        return None
    wide = min(len(panels), 4)
    high = math.ceil(len(panels) / wide)
    with mpl.rc_context(_STYLE):
        size = (2.0 + 1.9 * wide, high * (1.2 + 0.3 * len(shown)))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(high, wide, sharey=True, squeeze=False).ravel()
    for axis in grid[len(panels) :]:
        axis.set_visible(False)
    for axis, (j, column) in zip(grid, panels, strict=False):
        for place, i in enumerate(shown):
            measured = table.cells[i][j].measured
            if measured is None:
                continue
            axis.errorbar(measured.mean, place, xerr=measured.std or 0, capsize=3, elinewidth=1.4,
                          **look(place) | {"linestyle": "none"})  # fmt: skip
        axis.set_title("\n".join(column.label), fontsize=9, color=INK)
        axis.set_xlabel(column.unit, fontsize=8.5)
        axis.margins(0.18)
        axis.set_yticks(range(len(shown)), [table.rows[i] for i in shown])
        axis.set_ylim(len(shown) - 0.5, -0.5)
        axis.tick_params(labelsize=8.5)
    return figure


def _highest(table: Table, columns: list[int], most: int) -> list[int]:
    """The rows to draw, in the table's order."""
    standing: dict[int, list[float]] = {}
    for j in columns:
        sign = 1 if table.columns[j].higher_is_better else -1
        values = {i: sign * cell.mean for i, row in enumerate(table.cells) if (cell := row[j].measured)}
        for place, i in enumerate(sorted(values, key=lambda i: (-values[i], i))):
            standing.setdefault(i, []).append(place / len(values))
    return sorted(sorted(standing, key=lambda i: (sum(standing[i]) / len(standing[i]), i))[:most])


def ablation_heatmap(table: Table) -> Figure | None:
    """The measured means of a table as a heat map, each with its number: light is low, dark is high, in grey too."""
    values = np.array([[cell.measured.mean if cell.measured else np.nan for cell in row] for row in table.cells])
    if values.size == 0 or np.isnan(values).all():
        return None
    with mpl.rc_context({**_STYLE, "axes.grid": False}):
        figure = Figure(figsize=(1.6 + 1.1 * len(table.columns), 1.2 + 0.6 * len(table.rows)), layout="constrained")
        axes = figure.subplots()
    image = axes.imshow(values, cmap="cividis_r", aspect="auto")
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (i, j), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.{table.columns[j].digits}f}"
        # On a coloured field the number's colour is fixed; beside it, it follows the page's as all other ink.
        ink = INK if np.isnan(value) else "#ffffff" if value > middle else "#000000"
        axes.text(j, i, text, ha="center", va="center", fontsize=9, color=ink)
    axes.set_xticks(range(len(table.columns)), [column.name for column in table.columns])
    axes.set_yticks(range(len(table.rows)), table.rows)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    bar = figure.colorbar(image, ax=axes)
    bar.set_label(table.columns[0].unit, color=INK)
    bar.ax.tick_params(colors=INK)
    bar.outline.set_visible(False)
    return figure


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _legend(axes: Axes, loc: Any = "best") -> None:
    axes.legend(fontsize=8.5, frameon=False, loc=loc, labelcolor=INK, handlelength=3.2)


def _line(axes: Axes, index: int, x: Any, y: Any, label: str, every: int = 1) -> None:
    axes.plot(x, y, label=label, markevery=every, **look(index))


def look(index: int) -> dict[str, Any]:
    """Colour, dash and marker of the series of that number."""
    style = index % len(SERIES)
    line = {"color": SERIES[style], "linestyle": _DASHES[style], "lw": 1.8}
    return line | {"marker": _MARKERS[style], "ms": _SIZES[style], "mec": "white", "mew": 0.7}
