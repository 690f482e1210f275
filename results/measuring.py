"""From rows to one number: the mean over pretrainings of the mean over evaluation seeds, or the reason for none."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pretrain.errors import InputError
from results import stats
from results.answers import answers
from results.table import Measured

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


def refuse_mixture(rows: pd.DataFrame) -> None:
    """Raise InputError, with the reason, unless all rows measure the same thing in the same way."""
    for column, word in MUST_AGREE.items():
        found = sorted(str(value) for value in rows[column].dropna().unique())
        if len(found) > 1:
            shown = ", ".join(value[:12] for value in found)
            raise InputError(f"these runs differ in {word} ({shown}): a mean or a comparison of them says nothing")


def pretrainings(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each pretraining's weights, in a fixed order.

    Runs of the same weights differ in the evaluation's seed only and are no independent evidence on the method.
    """
    weights = rows["checkpoint_sha256"].fillna(rows["checkpoint_ref"]).fillna(rows["checkpoint"]).fillna("")
    # Weights drawn at random have no file: each seed is a draw of its own.
    drawn = rows["checkpoint_ref"].fillna("").str.startswith("random:") & rows["checkpoint_sha256"].isna()
    weights = weights.where(~drawn, weights + "#" + rows["seed"].astype(str))
    key = rows["pretrain_seed"].astype(str) + " " + weights
    return [group.sort_values(["seed", "run_id"]) for _, group in rows.groupby(key, sort=True)]


def measure(rows: pd.DataFrame, value: str = "value") -> Measured:
    """The number behind rows of one metric. `rows` is not empty; `value` names the column that holds the number.

    Raises:
        InputError: the rows measure different things.
    """
    refuse_mixture(rows)
    units = pretrainings(rows)
    means = [float(unit[value].mean()) for unit in units]
    mean, std = stats.mean_std(means)
    if len(units) == 1:
        std = stats.mean_std([float(number) for number in units[0][value]])[1]
    low, high = _interval(rows, units) if value == "value" else (None, None)
    first = rows.iloc[0]
    return Measured(
        mean=mean,
        std=std,
        pretrainings=len(units),
        evaluations=len(rows),
        low=low,
        high=high,
        run_ids=tuple(sorted(rows["run_id"])),
        selection=_text(first["selection"]),
        protocol=f"{first['protocol']}#{first['protocol_hash']}",
        data=_text(first["data_identity"]) or first["data"],
    )


def correctness(rows: pd.DataFrame) -> list[NDArray[np.bool_]] | None:
    """Which test samples each run got right: one bool array (E, N) a pretraining; None unless all runs kept it."""
    found = []
    for unit in pretrainings(rows):
        columns = (unit[name] for name in ("path", "run_id", "n", "value"))
        bits = [None if pd.isna(n) else answers(path, run_id, int(n), value)
                for path, run_id, n, value in zip(*columns, strict=True)]  # fmt: skip
        kept = [array for array in bits if array is not None]
        if len(kept) < len(bits) or len({len(array) for array in kept}) != 1:
            return None
        found.append(np.stack(kept))
    return found if len({unit.shape[1] for unit in found}) == 1 else None


def _interval(rows: pd.DataFrame, units: list[pd.DataFrame]) -> tuple[float | None, float | None]:
    if len(rows) == 1:
        low, high = rows.iloc[0][["ci95_low", "ci95_high"]]
        return (None, None) if pd.isna(low) or pd.isna(high) else (float(low), float(high))
    correct = correctness(rows)
    return (None, None) if correct is None else stats.bootstrap_interval(correct)


def _text(value: object) -> str:
    return "" if value is None or value is pd.NA or value != value else str(value)
