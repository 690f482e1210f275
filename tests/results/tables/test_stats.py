"""Statistics against numbers computed by hand or by a slow and obvious loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from pretrain.runtime.errors import InputError
from results.tables import stats


def test_mean_and_sample_standard_deviation() -> None:
    assert stats.mean_std([60.0, 62.0, 64.0]) == (62.0, 2.0)
    assert stats.mean_std([60.0]) == (60.0, None)


def test_mcnemar_is_the_binomial_test_of_the_discordant_samples() -> None:
    # 1 sample only the first has right, 7 only the second: p = 2 * (C(8,0) + C(8,1)) / 2^8 = 18 / 256.
    first = np.array([True] * 5 + [True] + [False] * 7 + [False] * 7)
    second = np.array([True] * 5 + [False] + [True] * 7 + [False] * 7)
    result = stats.mcnemar_test(first, second)
    assert result.p == pytest.approx(18 / 256)
    assert result.difference == pytest.approx(100 * (6 - 12) / 20)
    assert result.n == 20


def test_interval_of_one_run_is_that_of_the_binomial() -> None:
    correct = np.arange(400) < 300
    low, high = stats.bootstrap_interval([correct[None]], resamples=40_000)
    exact = scipy_stats.binom.ppf([0.025, 0.975], 400, 0.75) / 4
    assert (low, high) == pytest.approx(tuple(exact), abs=0.3)
    loop = scipy_stats.bootstrap((correct.astype(float),), np.mean, n_resamples=4000, method="percentile", rng=0)
    assert (low, high) == pytest.approx(tuple(100 * np.array(loop.confidence_interval)), abs=0.4)


def test_paired_bootstrap_against_a_loop_over_samples() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.random((2, 1, 200)) < np.array([0.7, 0.6])[:, None, None]
    (result,) = stats.paired_bootstrap([first], [[second]], resamples=20_000)
    differences = []
    for _ in range(4000):
        drawn = generator.integers(0, 200, 200)
        differences.append(100 * (first[0, drawn].mean() - second[0, drawn].mean()))
    low, high = np.percentile(differences, [2.5, 97.5])
    assert result.difference == pytest.approx(100 * (first.mean() - second.mean()))
    assert (result.low, result.high) == pytest.approx((low, high), abs=0.8)
    assert [result] == stats.paired_bootstrap([first], [[second]], resamples=20_000)
    z = (first.mean() - second.mean()) / np.std((first[0].astype(int) - second[0]) / math.sqrt(200))
    assert result.p == pytest.approx(2 * scipy_stats.norm.sf(z), rel=0.1)


def test_comparisons_made_together_are_those_made_alone() -> None:
    generator = np.random.default_rng(1)
    first, second, third = ([generator.random((3, 500)) < level for _ in range(2)] for level in (0.7, 0.65, 0.5))
    together = stats.paired_bootstrap(first, [second, third], resamples=20_000)
    for one, other in zip(together, (second, third), strict=True):
        alone = stats.compare(first, other)
        assert one.difference == alone.difference
        assert (one.low, one.high) == pytest.approx((alone.low, alone.high), abs=0.6)


def test_a_clear_difference_survives_the_correction_for_a_thousand_comparisons() -> None:
    best, other = [np.arange(2000) % 10 < 8] * 2, [np.arange(2000) % 10 < 5] * 2
    (result,) = stats.paired_bootstrap([np.stack(best)], [[np.stack(other)]])
    assert stats.holm([result.p] * 1000)[0] < 1e-6
    (alike,) = stats.paired_bootstrap([np.stack(best)], [[np.stack(best)]])
    assert (alike.difference, alike.p) == (0.0, 1.0)


def test_pretrainings_that_differ_widen_the_interval() -> None:
    same = [np.tile(np.arange(500) % 10 < 7, (1, 1)) for _ in range(3)]
    apart = [np.tile(np.arange(500) % 10 < level, (1, 1)) for level in (5, 7, 9)]
    other = [np.tile(np.arange(500) % 10 < 6, (1, 1)) for _ in range(3)]
    (narrow,), (wide,) = stats.paired_bootstrap(same, [other]), stats.paired_bootstrap(apart, [other])
    assert narrow.difference == pytest.approx(wide.difference) == pytest.approx(10)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert narrow.p < 0.001
    assert wide.p > 0.05


def test_welch_against_its_formula() -> None:
    result = stats.welch_test([70.0, 72.0, 74.0], [66.0, 67.0, 68.0])
    t = (72 - 67) / math.sqrt(4 / 3 + 1 / 3)
    freedom = (4 / 3 + 1 / 3) ** 2 / ((4 / 3) ** 2 / 2 + (1 / 3) ** 2 / 2)
    assert result.p == pytest.approx(2 * scipy_stats.t.sf(t, freedom))
    with pytest.raises(InputError, match="two pretrainings"):
        stats.welch_test([1.0], [2.0, 3.0])


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]) == []


def test_runs_over_other_samples_are_refused() -> None:
    with pytest.raises(InputError, match="not the same test samples: the runs are over 3, 4 of them"):
        stats.compare([np.ones((1, 3), bool)], [np.ones((1, 4), bool)])
