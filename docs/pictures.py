"""The pictures of the pages and the README: the drawing of the method, and plots of measured and published numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from drawing import method
from matplotlib.figure import Figure

from results import plots
from results.store import load
from results.tables import table

FOLDER = Path(__file__).with_name("pictures")
MEASURED = Path(str(plots.__file__)).with_name("measured")


def measured_cifar10() -> str:
    """The README's table as dots with their spread."""
    figure = plots.task_dots(table("summary", load([MEASURED / "cifar10.jsonl"])))
    assert figure is not None
    return on_white(figure)


def published_epochs() -> str:
    """Linear top-1 on ImageNet against epochs of pretraining, from papers."""
    return on_white(plots.accuracy_against_epochs(load([MEASURED / "cifar10.jsonl"])))


def on_white(figure: Figure) -> str:
    """An SVG with a white ground, so that dark ink is read in a dark scheme too."""
    text = plots.svg(figure, text_as_text=True)
    return re.sub(r"(<svg\b[^>]*>)", r'\1<rect width="100%" height="100%" fill="white"/>', text, count=1)


PICTURES: dict[str, Callable[[], str]] = {
    "method.svg": method,
    "measured_cifar10.svg": measured_cifar10,
    "published_epochs.svg": published_epochs,
}
