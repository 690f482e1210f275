"""From rows to one number: the mean over pretrainings of the mean over evaluation seeds, or the reason for none."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pretrain.runtime.errors import InputError
from results.store.answers import answers
from results.store.lookup import Row, settings_without
from results.tables import stats
from results.tables.table import Measured

# What all rows behind one number, and both sides of a comparison, must share: column of the store -> the word for it.
MUST_AGREE = {
    "task": "task",
    "metric": "metric",
    "selection": "selection",
    "data": "data set",
    "data_identity": "content of the data set",
    "protocol": "protocol",
    "protocol_hash": "setting of the protocol",
}


def refuse_mixture(rows: Sequence[Row], tuned: Sequence[str] = ()) -> None:
    """Raise InputError, with the reason, unless all rows measure the same thing in the same way.

    `tuned`: dotted keys of the protocol's settings in which they may differ.
    """
    for column, word in MUST_AGREE.items():
        if column == "protocol_hash" and tuned:
            found = sorted({settings_without(row, tuned) for row in rows})
        else:
            found = sorted({str(row[column]) for row in rows if row[column] is not None})
        if len(found) > 1:
            shown = ", ".join(value[:12] for value in found)
            raise InputError(f"these runs differ in {word} ({shown}): a mean or a comparison of them says nothing")


class Evidence:
    """The rows behind one number, in the order of pretrainings and then of the evaluation's seeds.

    Attributes:
        rows: all of them.
        pretrainings: the rows of each pretraining's weights. Runs of the same weights differ in the evaluation's seed
            only and are no independent evidence on the method.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        """Raises InputError when the rows measure different things."""
        refuse_mixture(rows)
        groups: dict[tuple[int, str], list[Row]] = {}
        for row in sorted(rows, key=lambda row: (row["seed"], row["run_id"])):
            groups.setdefault(_weights(row), []).append(row)
        self.rows = rows
        self.pretrainings = [groups[key] for key in sorted(groups)]

    def means(self) -> list[float]:
        """The mean of each pretraining over its evaluation's seeds."""
        return [float(np.mean([row["value"] for row in unit])) for unit in self.pretrainings]

    @functools.cached_property
    def correct(self) -> list[NDArray[np.bool_]] | None:
        """Which test samples each run got right: one bool array (E, N) a pretraining; None unless all runs kept it."""
        found = []
        for unit in self.pretrainings:
            bits = [_answers(row) for row in unit]
            kept = [array for array in bits if array is not None]
            if len(kept) < len(bits) or len({len(array) for array in kept}) != 1:
                return None
            found.append(np.stack(kept))
        return found if len({unit.shape[1] for unit in found}) == 1 else None


def measure(evidence: Evidence, *, of_samples: bool = True) -> Measured:
    """The number that an evidence of at least one row gives; `of_samples`: a mean over samples, with an interval."""
    units = evidence.pretrainings
    mean, std = stats.mean_std(evidence.means())
    alike = len(evidence.rows) > len(units) and all(len({row["value"] for row in unit}) == 1 for unit in units)
    if len(units) == 1:
        std = None if alike else stats.mean_std([row["value"] for row in units[0]])[1]
    low, high = _interval(evidence) if of_samples else (None, None)
    first = evidence.rows[0]
    return Measured(
        mean=mean,
        std=std,
        pretrainings=len(units),
        evaluations=len(evidence.rows),
        low=low,
        high=high,
        run_ids=tuple(sorted(row["run_id"] for row in evidence.rows)),
        selection=first["selection"] or "",
        protocol=f"{first['protocol']}#{first['protocol_hash']}",
        data=first["data_identity"] or first["data"],
        alike=alike,
    )


def _answers(row: Row) -> NDArray[np.bool_] | None:
    return None if row["n"] is None else answers(row["path"], row["run_id"], row["n"], row["value"])


def _weights(row: Row) -> tuple[int, str]:
    """What tells pretrainings apart. Weights drawn at random have no file: each seed they were drawn with is one.

    Rows that do not tell it were drawn with the evaluation's own.
    """
    weights = row["checkpoint_sha256"] or row["checkpoint_ref"] or row["checkpoint"] or ""
    if (
        (row["checkpoint_ref"] or "").startswith("random:")
        and not row["checkpoint_sha256"]
        and row["pretrain_seed"] is None
    ):
        weights += f"#{row['seed']}"
    return -1 if row["pretrain_seed"] is None else row["pretrain_seed"], weights


def _interval(evidence: Evidence) -> tuple[float | None, float | None]:
    if len(evidence.rows) == 1:
        return evidence.rows[0]["ci95_low"], evidence.rows[0]["ci95_high"]
    if evidence.correct is None:
        return None, None
    units = evidence.pretrainings
    return _bootstrapped(tuple(tuple((row["path"], row["run_id"], row["n"], row["value"]) for row in u) for u in units))


@functools.lru_cache(maxsize=10_000)
def _bootstrapped(units: tuple[tuple[tuple[str, str, int, float], ...], ...]) -> tuple[float, float]:
    # By what `answers` asks for, because the same runs stand in several tables. All of them are known to be there.
    correct = [[right for run in unit if (right := answers(*run)) is not None] for unit in units]
    return stats.bootstrap_interval([np.stack(unit) for unit in correct])
