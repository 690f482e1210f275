"""One HTML page of a set: the table of its report, and a contact sheet of each class with boxes and masks drawn."""

from __future__ import annotations

import base64
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from pretrain.data.gate.report import Report
from pretrain.data.gate.subjects import Subject
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_text
from pretrain.runtime.progress import progress

_A_CLASS = 10  # pictures
_A_SPLIT = 1200  # at most, so that a thousand classes still make a page that opens
_CELL_PX = (192, 192)  # twice what is shown, for dense screens


def write_page(report: Report, subjects: list[Subject], path: Path) -> None:
    """Write the page, whole or not at all; it needs nothing beside it and no network."""
    text = resources.files("pretrain.data.gate").joinpath("page.html").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(text)
    labels = list(dict.fromkeys(label for split in report.splits for label in split.facts))
    sheets = [{"name": subject.split, "rows": _rows(subject)} for subject in subjects]
    write_text(Path(path), template.render(report=report, labels=labels, sheets=sheets))


def _rows(subject: Subject) -> list[dict[str, Any]]:
    """For each class its name, its count and some pictures, spread evenly over the split."""
    classes, each = subject.images.classes, min(_A_CLASS, max(1, _A_SPLIT // max(1, len(subject.images.classes))))
    groups = [
        (name, label, f"{subject.counts[label]} {subject.counted}", subject.of_class(label))
        for label, name in enumerate(classes)
    ]
    if not any(len(rows) for *_, rows in groups):  # masks that were not opened: which classes they show is not known
        groups = [
            (
                "all classes" if classes else "all images",
                -1,
                f"{len(subject.images)} images",
                np.arange(len(subject.images)),
            )
        ]
        each = 4 * _A_CLASS
    found = []
    total = sum(min(each, len(rows)) for *_, rows in groups)
    with progress(f"contact sheet of {subject.split}", total) as bar:
        for name, label, count, rows in groups:
            chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(each, len(rows))).astype(int))]
            cells = []
            for row in chosen.tolist():
                cells.append(_cell(subject, row, label))
                bar.advance()
            found.append({"label": name, "count": count, "cells": cells})
    return found


def _cell(subject: Subject, row: int, label: int) -> dict[str, str]:
    where = subject.images.where(row)
    try:
        picture = subject.drawn(row, subject.pixels(row), label)
    except InputError as error:
        return {"data": _BROKEN, "where": str(error)}
    picture.thumbnail(_CELL_PX)
    stream = BytesIO()
    picture.save(stream, "WEBP", quality=80)
    return {"data": "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode(), "where": where}


_BROKEN = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' width='96' height='96'%3E"
    "%3Crect width='96' height='96' fill='%23b3261e'/%3E"
    "%3Ctext x='48' y='52' fill='white' font-size='14' text-anchor='middle'%3Edamaged%3C/text%3E%3C/svg%3E"
)
