"""Statistics of accuracies: means, intervals over test samples, Holm's correction. Tests: `results.tables.difference`.

Shapes: N test samples, U pretrainings, E evaluation runs of a pretraining. What a method did on the test set is a
sequence of U bool arrays (E, N): which samples each run got right. All accuracies are in percent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from results.tables.difference import Correct, same_samples

RESAMPLES = 10_000
# Elements of one block of resampled counts: 16 MB.
_BLOCK = 2_000_000


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (divisor n - 1; None for one value)."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def bootstrap_interval(correct: Correct, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % percentile interval of the mean accuracy, test samples resampled (and not the runs: these are given).

    Raises:
        InputError: the runs are not over the same number of samples.
    """
    means = np.concatenate([block.mean(axis=1) for block in _resampled(correct, seed, resamples)])
    low, high = np.percentile(100 * means, [2.5, 97.5])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-corrected p values, in the order given."""
    if not p_values:
        return []
    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def _resampled(units: Correct, seed: int, resamples: int) -> Iterator[NDArray[np.float64]]:
    """Accuracies (fractions) of every pretraining in every resample of the samples: blocks (some resamples, U).

    Samples that all pretrainings got right equally often are interchangeable, so that resampling N of them is drawing
    how often each of the few patterns occurs: the same distribution as drawing N indices, without touching N samples a
    resample.
    """
    n = same_samples(units)
    right = np.stack([unit.sum(axis=0, dtype=np.uint16) for unit in units])
    patterns, counts = np.unique(right, axis=1, return_counts=True)
    generator = np.random.default_rng(np.random.SeedSequence([seed, 0]))
    step = max(1, _BLOCK // len(counts))
    values = patterns.T / (n * np.array([len(unit) for unit in units], dtype=np.float64))
    for begin in range(0, resamples, step):
        drawn = generator.multinomial(n, counts / n, size=min(step, resamples - begin))
        yield drawn @ values
