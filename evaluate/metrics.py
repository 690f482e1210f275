"""Accuracies with their bootstrap intervals, and the per-image correctness that later comparisons need.

Shapes: N test images, K classes.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pretrain.runtime.errors import InputError
from pretrain.runtime.files import replacing
from results.row import Metric

Selection = Literal["last", "best", "held_out"]

log = logging.getLogger("fastmoco")

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


def accuracy(correct: np.ndarray, labels: np.ndarray, metric: str) -> np.ndarray:
    """top1 or mean_per_class in percent, without interval: (..., N) bool which were right, (N,) labels -> (...)."""
    if metric == "top1":
        return 100.0 * correct.mean(axis=-1)
    present = np.unique(labels)
    return 100.0 * np.stack([correct[..., labels == label].mean(axis=-1) for label in present]).mean(axis=0)


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


def average_precision(scores: np.ndarray, positive: np.ndarray, *, eleven_point: bool) -> float:
    """AP in [0, 1] of scores (N,) for labels (N,) bool; NaN without a positive, for there is nothing to find.

    `eleven_point` is VOC2007's: the mean over recalls 0, 0.1 ... 1 of the best precision at that recall or more. Else
    the area under the precision-recall curve as VOC2010 and later take it: precision made non-increasing, every point
    used. VISSL and mmselfsup take that one of their SVMs (fair_self_supervision_benchmark, `calculate_ap`).
    """
    precision, recall = _precision_recall(scores, positive)
    if len(precision) == 0:
        return math.nan
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    if eleven_point:
        # 1e-9: 0.1 * 3 and the like must not miss a recall that equals them.
        at = np.searchsorted(recall, np.linspace(0, 1, 11) - 1e-9)
        return float(np.append(envelope, 0.0)[at].mean())
    return float(np.sum(np.diff(np.concatenate([[0.0], recall])) * envelope))


def _precision_recall(scores: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not positive.any():
        return np.empty(0), np.empty(0)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    # Of images with equal scores none comes first: a threshold takes all of them or none.
    last = np.append(np.diff(scores[order]) != 0, True)
    seen = np.flatnonzero(last) + 1
    hits = hits[last]
    return hits / seen, hits / positive.sum()


def mean_average_precision(
    scores: np.ndarray,
    positive: np.ndarray,
    ignored: np.ndarray | None,
    classes: tuple[str, ...],
    *,
    seed: int,
    eleven_point: bool = False,
    draws: int = 200,
    detail: dict[str, Any] | None = None,
    **fields: Any,
) -> list[Metric]:
    """`mAP`, the mean over classes of the area under the precision-recall curve, `mAP_11_point`, and each class's AP.

    The one that `eleven_point` names comes first, has a bootstrap interval over images, and is what `AP/CLASS` are of.
    A class without a positive image has no AP: it is left out of the means, which is logged and noted in the detail.

    Args:
        scores: (N, K); positive: (N, K) bool; ignored: (N, K) bool, left out of that class's AP, or None.

    Raises:
        InputError: no class has a positive image.
    """
    counts = np.ones_like(positive) if ignored is None else ~ignored
    everything = np.arange(len(scores))

    def aps(rows: np.ndarray, eleven: bool) -> np.ndarray:
        """(K,) in percent; NaN where none of the images is of the class."""
        kept = [(k, rows[counts[rows, k]]) for k in range(len(classes))]
        return 100.0 * np.array(
            [average_precision(scores[at, k], positive[at, k], eleven_point=eleven) for k, at in kept]
        )

    by_class = aps(everything, eleven_point)
    absent = [name for name, ap in zip(classes, by_class, strict=True) if math.isnan(ap)]
    if len(absent) == len(classes):
        raise InputError("no class has a positive test image: there is no average precision")
    if absent:
        log.warning(
            "mAP is the mean over %d of %d classes: no test image is of %s",
            len(classes) - len(absent),
            len(classes),
            ", ".join(absent),
        )
    rng = np.random.default_rng(seed)
    resamples = (rng.integers(0, len(scores), len(scores)) for _ in range(draws))
    drawn = np.array([_mean_of_known(aps(rows, eleven_point)) for rows in resamples])
    told = {**(detail or {}), **({"classes_left_out": absent} if absent else {})}
    fields |= {"n": len(scores), "detail": told}
    names = ("mAP_11_point", "mAP") if eleven_point else ("mAP", "mAP_11_point")
    other = _mean_of_known(aps(everything, not eleven_point))
    rows = [
        Metric(name=names[0], value=_mean_of_known(by_class), ci95=interval(drawn[np.isfinite(drawn)]), **fields),
        Metric(name=names[1], value=other, **fields),
    ]
    known = [(name, float(ap)) for name, ap in zip(classes, by_class, strict=True) if not math.isnan(ap)]
    return rows + [Metric(name=f"AP/{name}", value=ap, **fields) for name, ap in known]


def _mean_of_known(aps: np.ndarray) -> float:
    known = aps[~np.isnan(aps)]
    return float(known.mean()) if len(known) else math.nan


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


def save_shares(out: Path, shares: np.ndarray) -> None:
    """Write `OUT/shares.npy`: float32 (N,) numbers of the test images, in the order of the split, whose mean is the
    main metric from 0 to 1: what `save_correct` is to accuracies, for metrics that are no share of right answers.
    """
    with replacing(Path(out) / "shares.npy") as stream:
        np.save(stream, shares.astype(np.float32))
