"""Plots of what was measured, beside what was published: SVG and PNG, told apart by marker and line as by colour.

Each function gives a matplotlib figure, None when there is nothing to draw; `save` writes it. Colours are those of
Okabe and Ito (2008), told apart by people who are colour-blind, and of different lightness, so that grey is enough.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pretrain.files import write_bytes
from results.published import find
from results.store import Store
from results.table import Table

INK, GRID = "#191c20", "#d8dce1"
SERIES = ("#0072b2", "#d55e00", "#00805e", "#a04d86", "#8a6a00", "#3f8fc4", "#4a4f57")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DASHES = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (6, 2, 1, 2)), (0, (1, 1)), (0, (8, 3)), (0, (3, 1, 1, 1)))
_RIVALS = {
    "BYOL": "SimSiam paper (arXiv:2011.10566), Table 4",
    "SimSiam": "SimSiam paper (arXiv:2011.10566), Table 4",
    "NNCLR": "Fast-MoCo paper (arXiv:2207.08220), Fig. 1(a) linear accuracy vs epochs",
    "MoCo v3": "facebookresearch/moco-v3 README, ResNet-50 linear classification table",
    "Fast-MoCo": "Fast-MoCo repo README, Pretrained Models table",
}
# Typed as Any: the names matplotlib accepts differ from version to version.
_STYLE: Any = {
    "svg.hashsalt": "fastmoco",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": INK,
    "text.color": INK,
    "axes.labelcolor": INK,
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


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write STEM.svg and STEM.png (200 dots an inch); the same figure gives the same SVG bytes."""
    paths = [Path(stem).with_suffix(suffix) for suffix in (".svg", ".png")]
    write_bytes(paths[0], svg(figure).encode())
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=200, facecolor="white")
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
        axes.plot(mean.index.to_numpy(dtype=float), mean, "*", ms=13, color=INK, mec="white", label=f"{method} (ours)")
    axes.set_xscale("log", base=2)
    axes.set_xticks([100, 200, 400, 800], ["100", "200", "400", "800"])
    axes.minorticks_off()
    axes.legend(fontsize=8.5, loc="lower right", frameon=False)
    return figure


def learning_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], name: str) -> Figure | None:
    """One line a run: the value `name` of its `metrics.jsonl` points (`pretrain.curves.read_curves`) by step."""
    figure, axes = _figure("step", name)
    drawn = 0
    for label, points in curves.items():
        pairs = [(point["step"], point[name]) for point in points if point.get(name) is not None]
        if pairs:
            x, y = np.array(pairs, dtype=float).T
            _line(axes, drawn, x, y, label, every=max(1, len(x) // 8))
            drawn += 1
    if not drawn:
        return None
    axes.legend(fontsize=8.5, frameon=False)
    return figure


def accuracy_against_cost(costs: Mapping[str, tuple[float, float]], *, metric: str = "top-1 (%)") -> Figure | None:
    """`costs`: label -> (GPU-hours or, on a CPU, hours of pretraining; accuracy in percent)."""
    if not costs:
        return None
    figure, axes = _figure("hours of pretraining", metric)
    for index, (label, (hours, accuracy)) in enumerate(costs.items()):
        axes.plot([hours], [accuracy], _MARKERS[index % 7], ms=8, color=SERIES[index % 7], mec="white")
        axes.annotate(label, (hours, accuracy), xytext=(7, 4), textcoords="offset points", fontsize=8.5)
    axes.margins(0.2)
    return figure


def task_dots(table: Table) -> Figure | None:
    """A panel for each column of a table, a dot for each row with its spread: which weights are good at what."""
    panels = [(j, column) for j, column in enumerate(table.columns) if any(row[j].measured for row in table.cells)]
    if not panels:
        return None
    with mpl.rc_context(_STYLE):
        height = 1.1 + 0.32 * len(table.rows)
        figure = Figure(figsize=(min(2.2 + 1.9 * len(panels), 11), height), layout="constrained")
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (j, column) in zip(axes, panels, strict=True):
        for i, row in enumerate(table.cells):
            measured = row[j].measured
            if measured is None:
                continue
            axis.errorbar(measured.mean, i, xerr=measured.std or 0, fmt=_MARKERS[i % 7], ms=7, capsize=3,
                          color=SERIES[i % 7], mec="white", elinewidth=1.4)  # fmt: skip
        axis.set_title("\n".join(column.label), fontsize=9)
        axis.margins(0.18)
        axis.set_yticks(range(len(table.rows)), table.rows)
        axis.set_ylim(len(table.rows) - 0.5, -0.5)
        axis.tick_params(labelsize=8.5)
    return figure


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
        ink = "white" if not np.isnan(value) and value > middle else INK
        axes.text(j, i, text, ha="center", va="center", fontsize=9, color=ink)
    axes.set_xticks(range(len(table.columns)), [column.name for column in table.columns])
    axes.set_yticks(range(len(table.rows)), table.rows)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(image, ax=axes, label=table.columns[0].unit)
    return figure


def _figure(x: str, y: str) -> tuple[Figure, Axes]:
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def _line(axes: Axes, index: int, x: Any, y: Any, label: str, every: int = 1) -> None:
    style = index % len(SERIES)
    axes.plot(x, y, color=SERIES[style], linestyle=_DASHES[style], marker=_MARKERS[style], ms=6, mec="white",
              lw=1.8, label=label, markevery=every)  # fmt: skip
