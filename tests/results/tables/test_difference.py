"""Tests of two methods: against formulas and slow loops, and how often they err where there is no difference."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from pretrain.runtime.errors import InputError
from results.tables import difference, simulation
from results.tables.difference import Side


def test_mcnemar_is_the_binomial_test_of_the_discordant_samples() -> None:
    # 1 sample only the first has right, 7 only the second: p = 2 * (C(8,0) + C(8,1)) / 2^8 = 18 / 256.
    first = np.array([True] * 5 + [True] + [False] * 7 + [False] * 7)
    second = np.array([True] * 5 + [False] + [True] * 7 + [False] * 7)
    result = difference.mcnemar_test(first, second)
    assert result.p == pytest.approx(18 / 256)
    assert result.difference == pytest.approx(100 * (6 - 12) / 20)
    assert result.n == 20
    # Clopper and Pearson's ends are where one tail of the binomial holds 2.5 %.
    low, high = ((end / 100 * 20 / 8 + 1) / 2 for end in (result.low, result.high))
    assert scipy_stats.binom.cdf(1, 8, high) == pytest.approx(0.025)
    assert scipy_stats.binom.sf(0, 8, low) == pytest.approx(0.025)


def slow(first: np.ndarray, second: np.ndarray) -> tuple[float, float, float, float]:
    """Difference, its two standard errors and Welch's freedom in plain sums, of (U, N) answers of equally many U."""
    units, n = first.shape
    of_pretrainings, luck = [], 0.0
    for side in (first, second):
        means = [sum(row) / n for row in side.tolist()]
        mean = sum(means) / units
        of_pretrainings.append(sum((one - mean) ** 2 for one in means) / (units - 1) / units)
        columns = [sum(column) / units for column in side.T.tolist()]
        rest = sum(
            (side[u, x] - means[u] - columns[x] + mean) ** 2 for u in range(units) for x in range(n)
        )  # of the two-way layout
        luck += rest / ((units - 1) * (n - 1)) / (units * n)
    each = [sum(a) / units - sum(b) / units for a, b in zip(first.T.tolist(), second.T.tolist(), strict=True)]
    mean = sum(each) / n
    through = sum((one - mean) ** 2 for one in each) / (n - 1) / n
    total = sum(of_pretrainings)
    freedom = total**2 / sum(variance**2 / (units - 1) for variance in of_pretrainings)
    return mean, math.sqrt(total), math.sqrt(max(0.0, through - min(luck, total))), freedom


def test_the_test_against_plain_sums() -> None:
    generator = np.random.default_rng(3)
    first, second = ((generator.random((3, 200)) < level + generator.normal(0, 0.05, (3, 1))) for level in (0.7, 0.62))
    result = difference.compare([one[None] for one in first], [one[None] for one in second])
    mean, pretrainings, samples, freedom = slow(first.astype(float), second.astype(float))
    assert result.difference == pytest.approx(100 * mean)
    at_level = [scipy_stats.t.ppf(0.975, one) for one in (freedom, 199)]
    margin = 100 * math.hypot(at_level[0] * pretrainings, at_level[1] * samples)
    assert (result.low, result.high) == pytest.approx((100 * mean - margin, 100 * mean + margin))
    # At its p the margin is the difference itself.
    at_p = [scipy_stats.t.isf(result.p / 2, one) for one in (freedom, 199)]
    assert math.hypot(at_p[0] * pretrainings, at_p[1] * samples) == pytest.approx(abs(mean))


def test_one_run_of_several_seeds_a_side_is_a_paired_t_test_over_samples() -> None:
    generator = np.random.default_rng(0)
    first, second = (generator.random((2, 300)) < level for level in (0.7, 0.6))
    result = difference.compare([first], [second])
    expected = scipy_stats.ttest_rel(first.mean(axis=0), second.mean(axis=0))
    assert result.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval(0.95)
    assert (result.low, result.high) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert result.test == "t test over test samples"


@pytest.mark.parametrize("units", [(2, 2), (3, 3), (2, 5), (1, 3), (3, 1), (6, 3)])
def test_the_interval_holds_zero_exactly_where_p_is_not_significant(units: tuple[int, int]) -> None:
    generator = np.random.default_rng(sum(units))
    seen = set()
    for _ in range(60):
        levels = (0.6, generator.uniform(0.3, 0.9))
        first, second = (generator.random((count, 1, 100)) < level for count, level in zip(units, levels, strict=True))
        result = difference.compare(list(first), list(second))
        assert (result.p < 0.05) == (result.low > 0 or result.high < 0)
        turned = difference.compare(list(second), list(first))
        assert (turned.difference, turned.p) == pytest.approx((-result.difference, result.p))
        seen.add(result.p < 0.05)
    assert seen == {True, False}


def test_sides_of_unequal_size_take_each_its_own_freedom() -> None:
    first, second = np.array([70.0, 74.0]), np.array([66.0, 67.0, 68.0, 67.0, 67.0])
    result = difference.welch_test(list(first), list(second))
    errors = [math.sqrt(side.var(ddof=1) / len(side)) for side in (first, second)]
    margin = math.hypot(
        *(scipy_stats.t.ppf(0.975, len(s) - 1) * e for s, e in zip((first, second), errors, strict=True))
    )
    assert (result.low, result.high) == pytest.approx((5 - margin, 5 + margin))


def test_welch_against_scipy() -> None:
    first, second = [70.0, 72.0, 74.0], [66.0, 67.0, 68.0]
    result = difference.welch_test(first, second)
    expected = scipy_stats.ttest_ind(first, second, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert result.p == pytest.approx(expected.pvalue)
    assert (result.low, result.high) == pytest.approx((interval.low, interval.high))
    with pytest.raises(InputError, match="two pretrainings"):
        difference.welch_test([1.0], [2.0, 3.0])
    with pytest.raises(InputError, match="needs some spread"):
        difference.welch_test([1.0, 1.0], [2.0, 2.0])


def test_the_smallest_differences_and_the_largest() -> None:
    alike = [np.arange(2000)[None] % 10 < 8] * 2
    assert difference.compare(alike, alike).p == 1.0
    apart = difference.compare(alike, [np.arange(2000)[None] % 10 < 5] * 2)
    assert apart.difference == pytest.approx(30.0)
    assert difference.SMALLEST_P <= apart.p < 1e-6
    every, none = [np.ones((1, 50), bool)] * 3, [np.zeros((1, 50), bool)] * 3
    assert difference.compare(every, none).p == difference.SMALLEST_P
    assert difference.compare(every[:1], none[:1]).p == pytest.approx(2 / 2**50)


def test_pretrainings_that_differ_widen_the_interval() -> None:
    same = [np.arange(500)[None] % 10 < 7] * 3
    apart = [np.arange(500)[None] % 10 < level for level in (5, 7, 9)]
    other = [np.arange(500)[None] % 10 < 6] * 3
    narrow, wide = difference.compare(same, other), difference.compare(apart, other)
    assert narrow.difference == pytest.approx(wide.difference) == pytest.approx(10)
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    assert narrow.p < 0.001
    assert wide.p > 0.05


def test_runs_over_other_samples_are_refused() -> None:
    with pytest.raises(InputError, match="not the same test samples: the runs are over 3, 4 of them"):
        difference.compare([np.ones((1, 3), bool)], [np.ones((1, 4), bool)])
    with pytest.raises(InputError, match="not the same test samples"):
        difference.compare([np.ones((2, 3), bool)] * 2, [np.ones((2, 3), bool), np.ones((2, 5), bool)])


# Situations in which the error rate is simulated here: seed, pretrainings, spread of each side in logits.
@pytest.mark.parametrize("units", [2, 3, 5])
@pytest.mark.parametrize("spread", [(0.15, 0.15), (0.3, 0.075)])
def test_it_errs_in_no_more_than_the_five_percent_it_claims(units: int, spread: tuple[float, float]) -> None:
    """The bootstrap that stood here before erred in 12 to 18 % of such comparisons at two pretrainings."""
    generator = np.random.default_rng(7)
    null = simulation.Null((units, units), spread, 0.7)
    replications = 1500
    errors = sum(
        difference.compare_sides(*simulation.methods(null, 200, generator)).p < 0.05 for _ in range(replications)
    )
    # 5 % and three standard errors of this simulation; and it is a test: it errs at all.
    assert errors / replications <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / replications)
    assert errors > 0


def test_it_finds_what_is_there() -> None:
    generator = np.random.default_rng(11)
    found = 0
    for _ in range(200):
        first, second = simulation.methods(simulation.Null((3, 3), (0.05, 0.05), 0.3), 1000, generator)
        better = Side(np.maximum(first.answers, generator.random(first.answers.shape) < 0.3))
        found += difference.compare_sides(better, second).p < 0.05
    assert found >= 190


def test_the_committed_simulation_is_the_one_this_code_makes() -> None:
    written = json.loads(simulation.OUT.read_text(encoding="utf-8"))
    assert written["replications"] >= 5000
    for index in (4, 13):  # two pretrainings a side and three, spread as measured, one side half of it
        entry = written["errors"][index]
        spread = simulation.SPREADS[entry["spread"]]
        null = simulation.Null(tuple(entry["units"]), (spread, spread / entry["ratio"]), simulation.TASTE)
        rates = simulation.error_rates(null, replications=400, samples=written["samples"], seed=1)
        for name, rate in entry["rates"].items():
            assert rates[name] == pytest.approx(rate, abs=0.05), (entry, name)
    # What the page says of every situation with equal numbers of pretrainings.
    assert max(entry["rates"]["ours"] for entry in written["errors"]) < 0.06
    assert max(entry["rate"] for entry in written["best_left_out"]) < 0.05
