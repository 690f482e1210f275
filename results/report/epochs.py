"""What longer pretraining is worth: accuracy of recipes that differ in how long they train alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.runtime.files import canonical_hash
from results.report.costs import commonest, maker_of
from results.store.lookup import Row, records
from results.store.store import Store
from results.tables import stats
from results.tables.measuring import Evidence

# Two recipes that differ in these alone are one method, trained longer or shorter: `epochs`, and what keeps the books.
LENGTH = frozenset(
    {"epochs", "name", "source", "sources", "workers", "save_every_steps", "keep_epochs", "log_every_steps"}
)


@dataclass(frozen=True)
class Point:
    """Accuracy after some epochs: mean and sample standard deviation over pretrainings (None for one)."""

    epochs: int
    mean: float
    std: float | None


@dataclass(frozen=True)
class EpochCurves:
    """Lines of a plot.

    Attributes:
        metric: what the accuracy is, in words.
        lines: method -> its points by epochs, two or more. Recipes of one method that differ in more than their length
            are lines of their own; a second one bears the label of its longest run besides.
        levels: checkpoint without any pretraining -> mean, and standard deviation over its draws.
    """

    metric: str
    lines: dict[str, list[Point]]
    levels: dict[str, tuple[float, float | None]]


def accuracy_by_epochs(store: Store, task: str) -> EpochCurves | None:
    """Every method of the store that was pretrained for several lengths, measured by one task, set and protocol.

    That is the one which most checkpoints were measured by, with its first metric. None where no method has two
    lengths.
    """
    made = {row["run_id"]: row for row in records(store.runs[store.runs["kind"] == "pretrain"])}
    rows = [row for row in records(store.select(kind="evaluate", task=task, rank=0)) if row["selection"] != "best"]
    if not rows:
        return None
    metric, measured = commonest(rows)
    lines: dict[str, list[Point]] = {}
    for rows in _methods(measured, made).values():
        lengths: dict[int, list[Row]] = {}
        for row in rows:
            lengths.setdefault(int(row["epoch"]), []).append(row)
        if len(lengths) > 1:
            method = rows[0]["method"]
            name = method if method not in lines else f"{method}, {lengths[max(lengths)][0]['checkpoint']}"
            lines[name] = [_point(epochs, lengths[epochs]) for epochs in sorted(lengths)]
    drawn: dict[str, list[Row]] = {}
    for row in measured:
        if (row["checkpoint_ref"] or "").startswith("random:"):
            drawn.setdefault(row["checkpoint"], []).append(row)
    levels = {label: stats.mean_std(Evidence(rows).means()) for label, rows in drawn.items()}
    return EpochCurves(metric, lines, levels) if lines else None


def _methods(rows: Sequence[Row], made: dict[str, Row]) -> dict[str, list[Row]]:
    """The rows of each recipe and set, whatever its epochs and its seed."""
    methods: dict[str, list[Row]] = {}
    for row in rows:
        maker = maker_of(row, made)
        if maker is not None and row["epoch"] is not None:
            settings = json.loads(maker["protocol_values"])
            rest = {name: value for name, value in settings.items() if name not in LENGTH}
            methods.setdefault(canonical_hash([rest, maker["data_identity"] or maker["data"]]), []).append(row)
    return methods


def _point(epochs: int, rows: Sequence[Row]) -> Point:
    mean, std = stats.mean_std(Evidence(rows).means())
    return Point(epochs, mean, std)
