"""Confusion matrices and what is read off them: mIoU, mAcc, aAcc and IoU of each class, in percent.

Shapes: K classes; a confusion matrix is (K, K) int64, rows truth, columns prediction, counted in pixels.
"""

from __future__ import annotations

import numpy as np

from results.row import Metric


def confusion(truth: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pixels of two label maps of equal shape; where truth is no class (ignored) a pixel does not count."""
    assert truth.shape == predicted.shape, f"truth {truth.shape}, prediction {predicted.shape}"
    counted = truth < num_classes
    pairs = truth[counted].astype(np.int64) * num_classes + predicted[counted]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def iou(matrix: np.ndarray) -> np.ndarray:
    """(K,) intersection over union in percent; NaN for a class that is neither in truth nor in prediction."""
    hits = np.diag(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return 100 * np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def accuracy(matrix: np.ndarray) -> np.ndarray:
    """(K,) share of each class's pixels that are predicted right, in percent; NaN for a class that truth lacks."""
    hits, truth = np.diag(matrix).astype(np.float64), matrix.sum(1)
    return 100 * np.divide(hits, truth, out=np.full(len(hits), np.nan), where=truth > 0)


def summary(matrix: np.ndarray) -> dict[str, float]:
    """mIoU and mAcc, means over the classes that have one (as mmsegmentation's IoUMetric), and aAcc, in percent."""
    return {
        "mIoU": float(np.nanmean(iou(matrix))),
        "mAcc": float(np.nanmean(accuracy(matrix))),
        "aAcc": float(100 * np.diag(matrix).sum() / matrix.sum()),
    }


def metrics(matrix: np.ndarray, classes: tuple[str, ...], images: int, main: str = "mIoU") -> list[Metric]:
    """One row a number of the last measurement, `main` first; a class that occurs nowhere has no row."""
    rows = [Metric(name=name, value=value, n=images) for name, value in summary(matrix).items()]
    rows += [
        Metric(name=f"IoU/{name}", value=float(value), n=images)
        for name, value in zip(classes, iou(matrix), strict=True)
        if not np.isnan(value)
    ]
    return sorted(rows, key=lambda row: row.name != main)
