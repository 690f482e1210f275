"""Accuracies with their bootstrap intervals, and the per-image correctness that later comparisons need.

Shapes: N test images, K classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from pretrain.files import replacing
from results.row import Metric

Selection = Literal["last", "best", "held_out"]

DRAWS = 10_000


def accuracies(
    top5: np.ndarray,
    labels: np.ndarray,
    classes: int,
    *,
    seed: int,
    selection: Selection = "last",
    detail: dict[str, Any] | None = None,
    main: str = "top1",
) -> list[Metric]:
    """top1, top5 (with more than five classes) and mean_per_class, the one called `main` first.

    Args:
        top5: (N, min(5, K)) int64, the likeliest classes of each image, likeliest first.
        labels: (N,) int64.
    """
    hits = top5 == labels[:, None]
    correct = hits[:, 0]
    shared: dict[str, Any] = {"selection": selection, "n": len(labels), "detail": detail or {}}
    metrics = [share("top1", correct, seed=seed, **shared)]
    if classes > 5:
        metrics.append(share("top5", hits.any(axis=1), seed=seed, **shared))
    value, ci95 = mean_per_class(correct, labels, seed=seed)
    metrics.append(Metric(name="mean_per_class", value=value, ci95=ci95, **shared))
    return sorted(metrics, key=lambda metric: metric.name != main)


def share(name: str, correct: np.ndarray, *, seed: int, **fields: Any) -> Metric:
    """The percentage of `correct` (N,) bool, with its 95 % bootstrap interval over images."""
    value, ci95 = _share(correct, seed)
    return Metric(name=name, value=value, ci95=ci95, **fields)


def _share(correct: np.ndarray, seed: int) -> tuple[float, tuple[float, float]]:
    # Resampling N flags with replacement and counting is a binomial draw: the bootstrap is exact and costs nothing.
    n, rate = len(correct), float(correct.mean())
    drawn = np.random.default_rng(seed).binomial(n, rate, size=DRAWS) * (100.0 / n)
    return 100.0 * rate, interval(drawn)


def mean_per_class(correct: np.ndarray, labels: np.ndarray, *, seed: int) -> tuple[float, tuple[float, float]]:
    """Mean over the classes that occur of each class's accuracy in percent, and its 95 % bootstrap interval.

    An image is one of 2K kinds (its class, right or wrong), so resampling images is one multinomial draw of the kinds'
    counts. A class that a resample happens to miss is left out of that resample's mean.
    """
    kinds = np.bincount(labels * 2 + correct, minlength=2 * (int(labels.max()) + 1)).reshape(-1, 2)
    kinds = kinds[kinds.sum(axis=1) > 0]  # (K', 2): wrong, right
    value = float(100.0 * (kinds[:, 1] / kinds.sum(axis=1)).mean())
    rng = np.random.default_rng(seed)
    drawn = np.empty(DRAWS)
    for start in range(0, DRAWS, 500):
        counts = rng.multinomial(len(labels), kinds.ravel() / len(labels), size=500).reshape(500, -1, 2)
        total = counts.sum(axis=2)
        rates = np.divide(counts[:, :, 1], total, out=np.full(total.shape, np.nan), where=total > 0)
        drawn[start : start + 500] = 100.0 * np.nanmean(rates, axis=1)
    return value, interval(drawn)


def interval(drawn: np.ndarray) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of bootstrap values."""
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def top_classes(scores: np.ndarray, k: int = 5) -> np.ndarray:
    """(N, K) scores -> (N, min(k, K)) int64, best class first; of equal scores the lower class number comes first."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def save_correct(out: Path, correct: np.ndarray) -> None:
    """Write `OUT/correct.npy`: `np.packbits` of which test images were right, in the order of the split."""
    with replacing(Path(out) / "correct.npy") as stream:
        np.save(stream, np.packbits(correct.astype(bool)))


def load_correct(out: Path, n: int) -> np.ndarray:
    """(n,) bool, what `save_correct` wrote for n images."""
    return np.unpackbits(np.load(Path(out) / "correct.npy"), count=n).astype(bool)
