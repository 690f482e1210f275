"""Statistics of accuracies: intervals over test samples, paired tests of two checkpoints, Holm's correction.

Shapes: N test samples, U pretrainings, E evaluation runs of a pretraining. What a method did on the test set is a
sequence of U bool arrays (E, N): which samples each run got right. All accuracies are in percent.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from pretrain.errors import InputError

Correct = Sequence[NDArray[np.bool_]]
RESAMPLES = 10_000
# Elements of one block of resampled counts: 16 MB.
_BLOCK = 2_000_000


@dataclass(frozen=True)
class Comparison:
    """Of two methods on the same test samples.

    Attributes:
        test: the name of the test.
        difference: first minus second, in points of percent.
        low, high: 95 % interval of the difference; None where the test gives none.
        p: two-sided, not yet corrected.
        n: test samples, or for Welch's test the number of pretrainings of both.
    """

    test: str
    difference: float
    low: float | None
    high: float | None
    p: float
    n: int


def mean_std(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation (divisor n - 1; None for one value)."""
    array = np.asarray(values, dtype=np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None


def bootstrap_interval(correct: Correct, *, seed: int = 0, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95 % percentile interval of the mean accuracy, test samples resampled (and not the runs: these are given).

    Raises:
        InputError: the runs are not over the same number of samples.
    """
    sizes = [unit.shape[0] for unit in correct]
    blocks = _resampled(correct, seed, resamples)
    means = np.concatenate([_unit_means(block, sizes).mean(axis=1) for block in blocks])
    low, high = np.percentile(100 * means, [2.5, 97.5])
    return float(low), float(high)


def mcnemar_test(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Comparison:
    """McNemar's exact test: of the samples on which one run is right and the other wrong, is half each run's?

    `first`, `second`: (N,). Raises InputError when they differ in length.
    """
    _same_samples([first[None], second[None]])
    table = [[int(np.sum(first & second)), int(np.sum(first & ~second))]]
    table.append([int(np.sum(~first & second)), int(np.sum(~first & ~second))])
    p = float(mcnemar(table, exact=True).pvalue)
    difference = 100 * (table[0][1] - table[1][0]) / len(first)
    return Comparison("McNemar's exact test", difference, None, None, min(p, 1.0), len(first))


def paired_bootstrap(first: Correct, second: Correct, *, seed: int = 0, resamples: int = RESAMPLES) -> Comparison:
    """The difference of two methods, test samples resampled for both alike and the pretrainings of each by itself.

    With one pretraining each only the samples are resampled. With a few, their spread enters, though the bootstrap of
    so small a number understates it. p = 2 min(share of resampled differences <= 0, >= 0), never below 2 / resamples.

    Raises:
        InputError: the runs are not over the same number of samples.
    """
    n = _same_samples([*first, *second])
    generator = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    sizes = [unit.shape[0] for unit in (*first, *second)]
    observed = _mean(first) - _mean(second)
    differences = []
    for block in _resampled([*first, *second], seed, resamples):
        units = _unit_means(block, sizes)
        weights_first = _weights(generator, len(units), len(first))
        weights_second = _weights(generator, len(units), len(second))
        differences.append(
            100 * ((units[:, : len(first)] * weights_first).sum(1) - (units[:, len(first) :] * weights_second).sum(1))
        )
    drawn = np.concatenate(differences)
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = min(np.sum(drawn <= 0), np.sum(drawn >= 0))
    p = min(1.0, 2 * (int(tail) + 1) / (resamples + 1))
    return Comparison("paired bootstrap", 100 * observed, float(low), float(high), p, n)


def welch_test(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Welch's t test on one value a pretraining. Raises InputError with fewer than two a side or no spread at all."""
    if min(len(first), len(second)) < 2:
        raise InputError("Welch's test needs two pretrainings a side")
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        raise InputError("Welch's test needs some spread: all pretrainings of a side gave the same number")
    result = stats.ttest_ind(first, second, equal_var=False)
    low, high = result.confidence_interval(0.95)
    difference = float(np.mean(first) - np.mean(second))
    return Comparison(
        "Welch's t test", difference, float(low), float(high), float(result.pvalue), len(first) + len(second)
    )


def compare(first: Correct, second: Correct, *, seed: int = 0) -> Comparison:
    """McNemar's test when each side is one run, else the paired bootstrap."""
    if all(len(side) == 1 and side[0].shape[0] == 1 for side in (first, second)):
        return mcnemar_test(first[0][0], second[0][0])
    return paired_bootstrap(first, second, seed=seed)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm-corrected p values, in the order given."""
    if not p_values:
        return []
    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def _same_samples(units: Correct) -> int:
    lengths = {unit.shape[1] for unit in units}
    if len(lengths) != 1:
        found = ", ".join(map(str, sorted(lengths)))
        raise InputError(f"not the same test samples: the runs are over {found} of them")
    return lengths.pop()


def _mean(side: Correct) -> float:
    return float(np.mean([unit.mean() for unit in side]))


def _weights(generator: np.random.Generator, resamples: int, units: int) -> NDArray[np.float64]:
    if units == 1:
        return np.ones((resamples, 1))
    return generator.multinomial(units, np.full(units, 1 / units), size=resamples) / units


def _resampled(units: Correct, seed: int, resamples: int) -> list[NDArray[np.float64]]:
    """Accuracies (fractions) of every run in every resample of the samples: blocks (some resamples, runs).

    Samples on which all runs did alike are interchangeable, so that resampling N of them is drawing how often each of
    the few patterns occurs: the same distribution as drawing N indices, without touching N samples a resample.
    """
    n = _same_samples(units)
    runs = np.concatenate(units, axis=0)
    patterns, counts = np.unique(runs, axis=1, return_counts=True)
    generator = np.random.default_rng(np.random.SeedSequence([seed, 0]))
    step = max(1, _BLOCK // len(counts))
    values = patterns.T.astype(np.float64) / n
    blocks = []
    for begin in range(0, resamples, step):
        drawn = generator.multinomial(n, counts / n, size=min(step, resamples - begin))
        blocks.append(drawn @ values)
    return blocks


def _unit_means(block: NDArray[np.float64], sizes: Sequence[int]) -> NDArray[np.float64]:
    edges = np.cumsum([0, *sizes])
    return np.stack([block[:, a:b].mean(axis=1) for a, b in itertools.pairwise(edges)], axis=1)
