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
    """AP from 0 to 1 of one class at each IoU that a hit must exceed; None for a class without objects that count.

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
    results = []
    for threshold in ious:
        taken: set[tuple[int, int]] = set()
        hit, counts = np.zeros(len(order), dtype=bool), np.ones(len(order), dtype=bool)
        for rank in np.flatnonzero(best > threshold):
            key = (int(images[rank]), int(match[rank]))
            if truths[key[0]].difficult[key[1]]:
                counts[rank] = False
            elif key not in taken:
                taken.add(key)
                hit[rank] = True
        hits = np.cumsum(hit[counts])
        recall = hits / positives
        precision = hits / np.arange(1, len(hits) + 1)
        results.append(_eleven_points(recall, precision) if interpolation == "voc07" else _area(recall, precision))
    return results


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
