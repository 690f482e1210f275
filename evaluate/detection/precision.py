"""Average precision as the PASCAL VOC development kit defines it, for boxes between pixel edges.

Shapes: N detections, M objects of an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Truth:
    """Objects of one class in one image: boxes (M, 4), and which of them do not count (M,)."""

    boxes: np.ndarray
    difficult: np.ndarray


@dataclass(frozen=True)
class Found:
    """Detections of one class: image numbers (N,), scores (N,), boxes (N, 4)."""

    images: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray


def average_precisions(
    truths: dict[int, Truth], found: Found, ious: tuple[float, ...], interpolation: Literal["voc07", "voc10"]
) -> list[float] | None:
    """AP from 0 to 1 of one class at each IoU that a hit must exceed; None for a class without objects that count."""
    table = matched(truths, found, ious)
    if table is None:
        return None
    _, hits, misses, positives = table
    results = []
    for hit, miss in zip(hits, misses, strict=True):
        count = np.cumsum(hit[hit | miss])
        recall = count / positives
        precision = count / np.arange(1, len(count) + 1)
        results.append(_eleven_points(recall, precision) if interpolation == "voc07" else _area(recall, precision))
    return results


def matched(
    truths: dict[int, Truth], found: Found, ious: tuple[float, ...]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int] | None:
    """Image (N,) of each detection by falling score, hits and misses (T, N), and how many objects count; None for none.

    By falling score, a detection is a hit when the object it overlaps most is not yet found; a second one on the same
    object is a miss, and one on a difficult object does not count either way.
    """
    positives = sum(int((~truth.difficult).sum()) for truth in truths.values())
    if positives == 0:
        return None
    order = np.argsort(-found.scores, kind="stable")
    best = np.zeros(len(order))
    match = np.zeros(len(order), dtype=int)
    images = found.images[order]
    for place, index in enumerate(order):
        truth = truths.get(int(found.images[index]))
        if truth is not None and len(truth.boxes):
            overlaps = iou(found.boxes[index], truth.boxes)
            match[place] = int(overlaps.argmax())
            best[place] = overlaps[match[place]]
    hits, misses = np.zeros((len(ious), len(order)), dtype=bool), np.ones((len(ious), len(order)), dtype=bool)
    for level, threshold in enumerate(ious):
        taken: set[tuple[int, int]] = set()
        for rank in np.flatnonzero(best > threshold):
            key = (int(images[rank]), int(match[rank]))
            if truths[key[0]].difficult[key[1]]:
                misses[level, rank] = False
            elif key not in taken:
                taken.add(key)
                hits[level, rank], misses[level, rank] = True, False
    return images, hits, misses, positives


def iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(4,), (M, 4) -> (M,) intersection over union."""
    width = np.minimum(box[2], boxes[:, 2]) - np.maximum(box[0], boxes[:, 0])
    height = np.minimum(box[3], boxes[:, 3]) - np.maximum(box[1], boxes[:, 1])
    shared = np.clip(width, 0, None) * np.clip(height, 0, None)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return shared / ((box[2] - box[0]) * (box[3] - box[1]) + areas - shared)


def _eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    points = np.arange(0.0, 1.1, 0.1)
    return float(np.mean([precision[recall >= point].max(initial=0.0) for point in points]))


def _area(recall: np.ndarray, precision: np.ndarray) -> float:
    """Under the curve of the best precision at each recall or beyond."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())
