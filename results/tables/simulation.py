"""How often the test of `difference` errs where two methods are equally good: `python -m results.tables.simulation`.

Test samples differ in how hard they are; each method is better at some of them and worse at others; each pretraining
is a little better or worse as a whole, and by chance right on other samples. Over all samples that there might be the
two methods are equally good, so that each "they differ" is an error. The rates are written to
results/measured/test_size.json, from which docs/statistics.md and its figure are made. Nothing here is used by a table.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from pretrain.runtime.files import write_json
from results.tables.difference import Side, compare_sides, welch_test
from results.tables.stats import holm

ALPHA = 0.05
OUT = Path(__file__).parents[1] / "measured" / "test_size.json"
# Standard deviations in logits. Those of samples and of luck give pretrainings that disagree on a quarter of the
# samples, as those of results/measured do.
_SAMPLES, _LUCK = 1.5, 1.0


class Null(NamedTuple):
    """One situation.

    Attributes:
        units: pretrainings of the first and of the second method.
        spread: standard deviation of a pretraining as a whole, in logits, of each method.
        taste: standard deviation over samples of what each method is better or worse at, in logits.
    """

    units: tuple[int, int]
    spread: tuple[float, float]
    taste: float


def ours(first: Side, second: Side) -> float:
    """The p value of the test that tables use."""
    return compare_sides(first, second).p


def means_alone(first: Side, second: Side) -> float:
    """Welch's test on the pretrainings' means: it takes this test set for all images there are."""
    # A side without any spread happens with few samples; the test has no answer then, which is no error.
    if np.ptp(first.means) == 0 and np.ptp(second.means) == 0:
        return 1.0
    means = [[float(mean) for mean in side.means] for side in (first, second)]
    return welch_test(*means).p


def satterthwaite(first: Side, second: Side) -> float:
    """One t test with the degrees of freedom of the sum of all variances (Hillis, 2007)."""
    shares = [float(side.means.var(ddof=1)) / len(side.means) for side in (first, second)]
    total = sum(shares) + _through_samples(first, second, sum(shares))
    known = sum(share**2 / (len(side.means) - 1) for share, side in zip(shares, (first, second), strict=True))
    freedom = total**2 / known if known else math.inf
    return float(2 * stats.t.sf(_distance(first, second) / math.sqrt(total), freedom))


def bootstrap(first: Side, second: Side) -> float:
    """Samples and pretrainings both drawn again, as it comes out with endless resamples: the test that tables had."""
    shares = [float(side.means.var(ddof=0)) / len(side.means) for side in (first, second)]
    by_sample = first.answers.mean(axis=0) - second.answers.mean(axis=0)
    error = math.sqrt(sum(shares) + float(by_sample.var()) / len(by_sample))
    return float(2 * stats.norm.sf(_distance(first, second) / error))


TESTS: dict[str, Callable[[Side, Side], float]] = {
    "ours": ours,
    "Welch on the means alone": means_alone,
    "t with Satterthwaite's freedom": satterthwaite,
    "bootstrap": bootstrap,
}


def error_rates(null: Null, *, replications: int, samples: int, seed: int = 0) -> dict[str, float]:
    """Share of replications in which each of `TESTS` finds a difference at the 5 % level."""
    generator = np.random.default_rng(seed)
    found = dict.fromkeys(TESTS, 0)
    for _ in range(replications):
        first, second = methods(null, samples, generator)
        for name, test in TESTS.items():
            found[name] += test(first, second) < ALPHA
    return {name: count / replications for name, count in found.items()}


def methods(null: Null, samples: int, generator: np.random.Generator) -> list[Side]:
    """Two equally good methods on one test set."""
    hardness = generator.normal(0, _SAMPLES, samples)
    return [
        _method(hardness, units, spread, null.taste, generator)
        for units, spread in zip(null.units, null.spread, strict=True)
    ]


def best_left_out(rows: int, null: Null, *, replications: int, samples: int, seed: int = 0) -> float:
    """Share of replications in which the first of equally good rows would not be bold."""
    generator = np.random.default_rng(seed)
    left_out = 0
    for _ in range(replications):
        hardness = generator.normal(0, _SAMPLES, samples)
        sides = [_method(hardness, null.units[0], null.spread[0], null.taste, generator) for _ in range(rows)]
        best = max(range(rows), key=lambda row: sides[row].means.mean())
        if best != 0:
            others = [row for row in range(rows) if row != best]
            corrected = holm([ours(sides[best], sides[row]) for row in others])
            left_out += corrected[others.index(0)] < ALPHA
    return left_out / replications


def _method(
    hardness: NDArray[np.float64], units: int, spread: float, taste: float, generator: np.random.Generator
) -> Side:
    shape = (units, len(hardness))
    level = hardness + generator.normal(0, taste, len(hardness)) + generator.normal(0, spread, (units, 1))
    return Side((generator.random(shape) < special.expit(level + generator.normal(0, _LUCK, shape))).astype(np.float64))


def _distance(first: Side, second: Side) -> float:
    return abs(float(first.means.mean() - second.means.mean()))


def _through_samples(first: Side, second: Side, pretrainings: float) -> float:
    by_sample = first.answers.mean(axis=0) - second.answers.mean(axis=0)
    through = float(by_sample.var(ddof=1)) / len(by_sample)
    return max(0.0, through - min(first.luck + second.luck, pretrainings))


# A pretraining's spread of 0.05, 0.15 and 0.4 logits is about 0.8, 2.5 and 6.5 points of accuracy; with a thousand
# samples the second stands to the spread through samples as in results/measured, where there are ten thousand.
SPREADS = {"small": 0.05, "as measured": 0.15, "large": 0.4}
RATIOS = (1, 2, 4)
UNITS = ((2, 2), (3, 3), (5, 5), (2, 5))
TASTE = 0.7


def simulate(replications: int, samples: int) -> dict[str, object]:
    """Every situation of the page: what `OUT` holds."""
    rates: list[dict[str, object]] = []
    for units, (word, spread), ratio in itertools.product(UNITS, SPREADS.items(), RATIOS):
        null = Null(units, (spread, spread / ratio), TASTE)
        found = error_rates(null, replications=replications, samples=samples, seed=len(rates))
        rates.append({"units": units, "spread": word, "ratio": ratio, "rates": found})
        print(units, word, ratio, found, flush=True)
    left_out = [
        {"rows": rows, "units": units, "rate": best_left_out(
            rows, Null((units, units), (0.15, 0.15), TASTE), replications=replications, samples=samples, seed=rows
        )}
        for rows, units in itertools.product((2, 5, 10), (2, 3, 5))
    ]  # fmt: skip
    return {"replications": replications, "samples": samples, "errors": rates, "best_left_out": left_out}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replications", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=1_000)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    write_json(given.out, simulate(given.replications, given.samples))
