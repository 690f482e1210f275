"""What pretraining took, beside what its weights are worth: one point a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from results.store.lookup import Row, records
from results.store.store import Store
from results.tables.measuring import Evidence

# The task that a plot of accuracy takes, the first of these that any pretrained checkpoint has.
_TASKS = ("linear", "knn", "finetune", "semi", "logreg", "svm", "segmentation", "detection")


@dataclass(frozen=True)
class Cost:
    """Points of a plot.

    Attributes:
        unit: "GPU-hours", or "process-hours" when some run had no GPU.
        metric: what the accuracy is, in words.
        points: checkpoint -> (hours, accuracy), means over its pretrainings.
    """

    unit: str
    metric: str
    points: dict[str, tuple[float, float]]


def cost_of_pretraining(store: Store) -> Cost | None:
    """Hours (wall time times processes) and accuracy of every checkpoint that this store saw being pretrained.

    All accuracies are of one task, set and protocol: the commonest one of the first task that is there. None without.
    """
    made = {row["run_id"]: row for row in records(store.runs[store.runs["kind"] == "pretrain"])}
    rows = [row for row in records(store.select(kind="evaluate", rank=0)) if _hours(maker_of(row, made)) is not None]
    rows = [row for row in rows if row["selection"] != "best"]
    for task in _TASKS:
        if of_task := [row for row in rows if row["task"] == task]:
            return _cost(*commonest(of_task), made)
    return None


def commonest(rows: list[Row]) -> tuple[str, list[Row]]:
    """What most checkpoints were measured by among the rows of one task (set, metric, protocol), in words; its rows."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (row["metric"], row["data"], row["protocol"], row["data_identity"] or "", row["protocol_hash"])
        groups.setdefault((*key, row["selection"], row["unit"]), []).append(row)
    kind = max(sorted(groups), key=lambda key: len({row["checkpoint"] for row in groups[key]}))
    metric, data, protocol, unit = kind[0], kind[1], kind[2], kind[-1]
    return f"{rows[0]['task']} {data} {metric}, {protocol} ({unit})", groups[kind]


def _cost(metric: str, rows: list[Row], made: dict[str, Row]) -> Cost:
    by_label: dict[str, list[Row]] = {}
    for row in rows:
        by_label.setdefault(row["checkpoint"], []).append(row)
    points = {}
    for label, own in by_label.items():
        makers = {row["checkpoint_ref"]: maker_of(row, made) for row in own}
        hours = [value for maker in makers.values() if (value := _hours(maker)) is not None]
        means = Evidence(own).means()
        points[label] = (sum(hours) / len(hours), sum(means) / len(means))
    used = [maker for row in rows if (maker := maker_of(row, made))]
    on_gpu = all(maker["device"] and not maker["device"].startswith("cpu") for maker in used)
    return Cost("GPU-hours" if on_gpu else "process-hours", metric, points)


def maker_of(row: Row, made: dict[str, Row]) -> Row | None:
    """The pretraining that made the weights of an evaluation's row, of those by run id in `made`."""
    return made.get((row["checkpoint_ref"] or "").removeprefix("run:"))


def _hours(maker: Row | None) -> float | None:
    if maker is None or maker["wall_s"] is None:
        return None
    return float(maker["wall_s"]) * (maker["world_size"] or 1) / 3600
