"""Statistics of accuracies: intervals over test samples, paired tests of two checkpoints, Holm's correction.

Shapes: N test samples, U pretrainings, E evaluation runs of a pretraining. What a method did on the test set is a
sequence of U bool arrays (E, N): which samples each run got right. All accuracies are in percent.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from pretrain.runtime.errors import InputError

Correct = Sequence[NDArray[np.bool_]]
RESAMPLES = 10_000
# For a standard error these are plenty: it is known to 1.6 % of itself.
RESAMPLES_OF_A_TEST = 2_000
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
    means = np.concatenate([block.mean(axis=1) for block in _resampled(correct, seed, resamples)])
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


def paired_bootstrap(
    first: Correct, others: Sequence[Correct], *, seed: int = 0, resamples: int = RESAMPLES_OF_A_TEST
) -> list[Comparison]:
    """The difference of a method and each of the others: test samples resampled for all alike, pretrainings of each.

    With one pretraining each only the samples are resampled. With a few, their spread enters, though the bootstrap of
    so small a number understates it. p = 2 Φ(-|difference| / standard deviation of the resampled differences): unlike
    the share of differences beyond zero it has no lower bound, which many comparisons, corrected, would run into.

    Raises:
        InputError: the runs are not over the same number of samples.
    """
    sides = [first, *others]
    edges = np.cumsum([0, *map(len, sides)])
    n = _same_samples([unit for side in sides for unit in side])
    generator = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    means = np.empty((resamples, len(sides)))
    done = 0
    for block in _resampled([unit for side in sides for unit in side], seed, resamples):
        for index, (begin, end) in enumerate(itertools.pairwise(edges)):
            weights = _weights(generator, len(block), end - begin)
            means[done : done + len(block), index] = (block[:, begin:end] * weights).sum(axis=1)
        done += len(block)
    return [
        _resampled_difference(_mean(first) - _mean(other), means[:, 0] - means[:, index], n)
        for index, other in enumerate(others, 1)
    ]


def _resampled_difference(observed: float, drawn: NDArray[np.float64], n: int) -> Comparison:
    low, high = np.percentile(100 * drawn, [2.5, 97.5])
    error = float(drawn.std(ddof=1))
    # Two runs that answer alike everywhere have no spread and no difference.
    p = 1.0 if observed == 0 or error == 0 else float(2 * stats.norm.sf(abs(observed) / error))
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
    return paired_bootstrap(first, [second], seed=seed)[0]


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


def _resampled(units: Correct, seed: int, resamples: int) -> Iterator[NDArray[np.float64]]:
    """Accuracies (fractions) of every pretraining in every resample of the samples: blocks (some resamples, U).

    Samples that all pretrainings got right equally often are interchangeable, so that resampling N of them is drawing
    how often each of the few patterns occurs: the same distribution as drawing N indices, without touching N samples a
    resample.
    """
    n = _same_samples(units)
    right = np.stack([unit.sum(axis=0, dtype=np.uint16) for unit in units])
    patterns, counts = np.unique(right, axis=1, return_counts=True)
    generator = np.random.default_rng(np.random.SeedSequence([seed, 0]))
    step = max(1, _BLOCK // len(counts))
    values = patterns.T / (n * np.array([len(unit) for unit in units], dtype=np.float64))
    for begin in range(0, resamples, step):
        drawn = generator.multinomial(n, counts / n, size=min(step, resamples - begin))
        yield drawn @ values
