"""The pictures of the pages and the README: the drawing of the method, and plots of measured and published numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import step_costs
import test_sizes
from drawing import method
from matplotlib.figure import Figure

from results.readme import MEASURED
from results.report import plots
from results.report.epochs import accuracy_by_epochs
from results.store.store import load
from results.tables.named import table

FOLDER = Path(__file__).with_name("pictures")


def dots(definition: str, *files: str) -> str:
    """A table of measured rows as dots with their spread."""
    figure = plots.task_dots(table(definition, load([MEASURED / file for file in files])))
    assert figure is not None
    return on_white(figure)


def published_epochs() -> str:
    """Linear top-1 on ImageNet against epochs of pretraining, from papers."""
    return on_white(plots.accuracy_against_epochs(load([MEASURED / "cifar10.jsonl"])))


def evidence_epochs() -> str:
    """The linear classifier's accuracy on CIFAR-10 by epochs of pretraining."""
    figure = plots.accuracy_by_epochs(accuracy_by_epochs(load([MEASURED / "evidence_cifar10.jsonl"]), "linear"))
    assert figure is not None
    return on_white(figure)


def evidence_time() -> str:
    """The same by time: an epoch of each method takes what its step was measured to take."""
    steps = step_costs.pace("evidence_cost_cifar10.json")
    pace = {"fast_moco": steps["fast_moco_e5"], "moco": steps["moco_e5"]}
    curves = accuracy_by_epochs(load([MEASURED / "evidence_cifar10.jsonl"]), "linear")
    figure = plots.accuracy_by_epochs(curves, pace=pace, unit="pretraining time, in epochs of moco")
    assert figure is not None
    return on_white(figure)


def on_white(figure: Figure) -> str:
    """An SVG with a white ground, so that dark ink is read in a dark scheme too."""
    text = plots.svg(figure, text_as_text=True)
    return re.sub(r"(<svg\b[^>]*>)", r'\1<rect width="100%" height="100%" fill="white"/>', text, count=1)


PICTURES: dict[str, Callable[[], str]] = {
    "method.svg": method,
    "measured_cifar10.svg": partial(dots, "summary", "cifar10.jsonl"),
    "published_epochs.svg": published_epochs,
    "evidence_epochs.svg": evidence_epochs,
    "evidence_time.svg": evidence_time,
    "evidence_forty.svg": partial(dots, "evidence/forty_epochs", "evidence_cifar10.jsonl", "evidence_semi.jsonl"),
    "evidence_tenth.svg": partial(dots, "evidence/tenth_of_labels", "evidence_semi.jsonl"),
    "evidence_ablation.svg": partial(dots, "evidence/ablation", "evidence_ablation.jsonl"),
    "test_sizes.svg": lambda: on_white(test_sizes.figure()),
    "evidence_transfer.svg": partial(dots, "summary", "evidence_transfer.jsonl"),
}
