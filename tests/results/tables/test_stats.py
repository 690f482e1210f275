"""Statistics against numbers computed by hand or by a slow and obvious loop."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from pretrain.runtime.errors import InputError
from results.tables import stats


def test_mean_and_sample_standard_deviation() -> None:
    assert stats.mean_std([60.0, 62.0, 64.0]) == (62.0, 2.0)
    assert stats.mean_std([60.0]) == (60.0, None)


def test_interval_of_one_run_is_that_of_the_binomial() -> None:
    correct = np.arange(400) < 300
    low, high = stats.bootstrap_interval([correct[None]], resamples=40_000)
    exact = scipy_stats.binom.ppf([0.025, 0.975], 400, 0.75) / 4
    assert (low, high) == pytest.approx(tuple(exact), abs=0.3)
    loop = scipy_stats.bootstrap((correct.astype(float),), np.mean, n_resamples=4000, method="percentile", rng=0)
    assert (low, high) == pytest.approx(tuple(100 * np.array(loop.confidence_interval)), abs=0.4)


def test_holm_by_hand() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([]) == []


def test_runs_over_other_samples_are_refused() -> None:
    with pytest.raises(InputError, match="not the same test samples: the runs are over 3, 4 of them"):
        stats.bootstrap_interval([np.ones((1, 3), bool), np.ones((1, 4), bool)])
