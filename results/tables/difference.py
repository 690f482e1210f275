"""Whether two methods differ: the test of two sets of pretrainings on one test set, its p value and its interval.

A method's accuracy varies for two reasons: another pretraining gives other weights, and another test set holds other
images. Both belong into the error of a difference. Shapes: N test samples, U pretrainings, E evaluation runs of each.
What a method did is a sequence of U bool arrays (E, N): which samples each run got right. Accuracies are in percent.

The design is the crossed one of readers and cases (Obuchowski and Rockette, 1995; Hillis, 2007), with pretrainings as
readers nested in methods. Its three mean squares give V, the variance of the difference through the pretrainings, from
U - 1 degrees of freedom a side, and S, the variance through the test samples, from thousands. docs/statistics.md has
why the two are put together as they are, and what a simulation of it shows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats
from statsmodels.stats.contingency_tables import mcnemar

from pretrain.runtime.errors import InputError

Correct = Sequence[NDArray[np.bool_]]
LEVEL = 0.95
# Below this nothing is told apart any more, and quantiles of t lose their digits.
SMALLEST_P = 1e-100


@dataclass(frozen=True)
class Comparison:
    """Of two methods.

    Attributes:
        test: the name of the test.
        difference: first minus second, in points of percent.
        low, high: 95 % interval of the difference; it holds zero exactly where p >= 0.05.
        p: two-sided, not yet corrected; at least 1e-100.
        n: test samples, or without answers the number of pretrainings of both.
    """

    test: str
    difference: float
    low: float
    high: float
    p: float
    n: int


@dataclass(frozen=True)
class Side:
    """What a test needs to know of a method.

    Attributes:
        answers: (U, N), how often each pretraining got each sample right over its evaluation's seeds, 0 to 1.
    """

    answers: NDArray[np.float64]

    @classmethod
    def of(cls, correct: Correct) -> Side:
        """Raises InputError when the runs are not over the same number of samples."""
        same_samples(correct)
        return cls(np.stack([unit.mean(axis=0) for unit in correct]))

    @property
    def means(self) -> NDArray[np.float64]:
        """(U,) accuracy of each pretraining, 0 to 1."""
        return self.answers.mean(axis=1)

    @property
    def luck(self) -> float:
        """Variance of the method's mean through what each pretraining happens to get right: the interaction's share.

        It is part both of the spread of the pretrainings' means and of that of the samples, and must count once.
        """
        units, n = self.answers.shape
        if units < 2:
            return 0.0
        rest = self.answers - self.means[:, None] - self.answers.mean(axis=0) + self.answers.mean()
        return float((rest**2).sum() / ((units - 1) * (n - 1)) / (units * n))


def compare(first: Correct, second: Correct) -> Comparison:
    """McNemar's exact test when each side is one run, else `compare_sides`. Raises InputError as `Side.of`."""
    if all(len(side) == 1 and side[0].shape[0] == 1 for side in (first, second)):
        return mcnemar_test(first[0][0], second[0][0])
    return compare_sides(Side.of(first), Side.of(second))


def compare_sides(first: Side, second: Side) -> Comparison:
    """The t test over pretrainings and test samples.

    A side of one pretraining stands for these weights alone: its share of V is zero, and what is said holds for them.

    Raises:
        InputError: the runs are not over the same number of samples.
    """
    n = same_samples([first.answers, second.answers])
    error = _error_of_pretrainings(first.means, second.means)
    by_sample = first.answers.mean(axis=0) - second.answers.mean(axis=0)
    through_samples = float(by_sample.var(ddof=1) / n)
    samples = max(0.0, through_samples - min(first.luck + second.luck, sum(se**2 for se, _ in error)))
    difference = float(first.means.mean() - second.means.mean())
    several = len(first.means) > 1 or len(second.means) > 1
    name = "t test over test samples and pretrainings" if several else "t test over test samples"
    return _tested(name, difference, [*error, (math.sqrt(samples), n - 1)], n, scale=100.0)


def mcnemar_test(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Comparison:
    """McNemar's exact test: of the samples on which one run is right and the other wrong, is half each run's?

    `first`, `second`: (N,). The interval is the exact one of Clopper and Pearson for that half. Raises InputError when
    they differ in length.
    """
    n = same_samples([first[None], second[None]])
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(~first & second))
    either = only_first + only_second
    difference = 100 * (only_first - only_second) / n
    if not either:
        return Comparison("McNemar's exact test", 0.0, 0.0, 0.0, 1.0, n)
    p = float(mcnemar([[0, only_first], [only_second, 0]], exact=True).pvalue)
    share = stats.binomtest(only_first, either).proportion_ci(LEVEL, method="exact")
    low, high = (100 * either / n * (2 * bound - 1) for bound in (share.low, share.high))
    return Comparison("McNemar's exact test", difference, float(low), float(high), min(max(p, SMALLEST_P), 1.0), n)


def welch_test(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """The t test on one value a pretraining, where no answers tell the share of the test samples.

    It says what other pretrainings would give on these test samples. Raises InputError with fewer than two a side or
    no spread at all.
    """
    if min(len(first), len(second)) < 2:
        raise InputError("Welch's test needs two pretrainings a side")
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        raise InputError("Welch's test needs some spread: all pretrainings of a side gave the same number")
    error = _error_of_pretrainings(np.asarray(first, np.float64), np.asarray(second, np.float64))
    difference = float(np.mean(first) - np.mean(second))
    return _tested("Welch's t test", difference, error, len(first) + len(second))


def _error_of_pretrainings(first: NDArray[np.float64], second: NDArray[np.float64]) -> list[tuple[float, float]]:
    """(standard error, degrees of freedom) of a difference of means.

    Of sides of equal size one pair, with Welch's degrees of freedom. Of unequal ones a pair each, after Cochran and Cox
    (1950): there Welch's test errs up to twice too often (two pretrainings against five).
    """
    variances = [float(side.var(ddof=1)) / len(side) if len(side) > 1 else 0.0 for side in (first, second)]
    if len(first) != len(second) or len(first) < 2 or not any(variances):
        pairs = zip(variances, (first, second), strict=True)
        return [(math.sqrt(variance), len(side) - 1) for variance, side in pairs if len(side) > 1]
    freedom = sum(variances) ** 2 * (len(first) - 1) / sum(variance**2 for variance in variances)
    return [(math.sqrt(sum(variances)), freedom)]


def _tested(
    name: str, difference: float, error: Sequence[tuple[float, float]], n: int, scale: float = 1.0
) -> Comparison:
    margin = scale * _margin(1 - LEVEL, error)
    p = _p_value(abs(difference), error)
    return Comparison(name, scale * difference, scale * difference - margin, scale * difference + margin, p, n)


def _margin(p: float, error: Sequence[tuple[float, float]]) -> float:
    """Half the interval of level 1 - p: sqrt(sum of (t quantile x standard error)^2), each with its own freedom."""
    return math.hypot(*(special.stdtrit(freedom, p / 2) * se for se, freedom in error if se > 0))


def _p_value(distance: float, error: Sequence[tuple[float, float]]) -> float:
    """The p at which the interval's margin is the observed distance: computed, not drawn."""
    if distance == 0:
        return 1.0
    if distance >= _margin(SMALLEST_P, error):
        return SMALLEST_P
    low, high = math.log(SMALLEST_P), 0.0
    for _ in itertools.repeat(None, 60):
        middle = (low + high) / 2
        low, high = (low, middle) if _margin(math.exp(middle), error) < distance else (middle, high)
    return math.exp(high)


def same_samples(units: Sequence[NDArray[np.generic]]) -> int:
    """N of arrays (..., N). Raises InputError when they differ in it."""
    lengths = {unit.shape[-1] for unit in units}
    if len(lengths) != 1:
        found = ", ".join(map(str, sorted(lengths)))
        raise InputError(f"not the same test samples: the runs are over {found} of them")
    return lengths.pop()
