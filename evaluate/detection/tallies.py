"""What each image adds to average precision: AP of any weighting of the images, its bootstrap, and its derivative.

An image drawn twice counts twice: its detections and its objects have weight 2. AP of a resample of the test images is
AP at such weights, and needs no image to be matched again. The derivative with respect to the weights says how much of
AP each image bears: it makes a test of two detectors on the same images a test of paired numbers.

Shapes: B resamples, D detections of a class by falling score, N images, T IoUs, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.cocoeval import COCOeval

from evaluate.protocols.detector import Interpolation

DRAWS = 400
_SEED = 0  # the same resamples for every run, whatever its own seed
_RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's
_BLOCK = 4_000_000  # elements worked on at a time


@dataclass(frozen=True)
class Tally:
    """One class: its detections over all images, and how many objects each image has.

    Attributes:
        image: (D,) image numbers, by falling score.
        hit, miss: (T, D) bool; a detection that does not count either way is neither.
        objects: (N,) objects that count.
    """

    image: np.ndarray
    hit: np.ndarray
    miss: np.ndarray
    objects: np.ndarray


def coco_tallies(evaluation: COCOeval, images: int, area: int = 0) -> list[Tally | None]:
    """A tally of each class from an evaluation that has matched; None for a class without objects that count."""
    parameters = evaluation.params
    areas, most = len(parameters.areaRng), parameters.maxDets[-1]
    found: list[Tally | None] = []
    for category in range(len(parameters.catIds)):
        start = (category * areas + area) * images
        matched = [
            (number, one) for number, one in enumerate(evaluation.evalImgs[start : start + images]) if one is not None
        ]
        objects = np.zeros(images)
        for number, one in matched:
            objects[number] = np.count_nonzero(one["gtIgnore"] == 0)
        if not objects.any():
            found.append(None)
            continue
        scores = np.concatenate([one["dtScores"][:most] for _, one in matched])
        order = np.argsort(-scores, kind="mergesort")
        image = np.concatenate([np.full(len(one["dtScores"][:most]), number, dtype=int) for number, one in matched])
        hits = np.concatenate([one["dtMatches"][:, :most] for _, one in matched], axis=1)[:, order] > 0
        left_out = np.concatenate([one["dtIgnore"][:, :most] for _, one in matched], axis=1)[:, order] > 0
        found.append(Tally(image[order], hits & ~left_out, ~hits & ~left_out, objects))
    return found


def ap(tally: Tally, weights: np.ndarray, interpolation: Interpolation) -> np.ndarray:
    """(B, N) weights -> (B, T) AP from 0 to 1; NaN where a weighting leaves no object."""
    result = np.full((len(weights), len(tally.hit)), np.nan)
    objects = weights @ tally.objects
    of_detections = weights[:, tally.image]
    for level, (hit, miss) in enumerate(zip(tally.hit, tally.miss, strict=True)):
        hits, misses = np.cumsum(of_detections * hit, axis=1), np.cumsum(of_detections * miss, axis=1)
        precision = hits / (hits + misses + np.spacing(1))
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        for row in np.flatnonzero(objects):
            result[row, level] = _averaged(hits[row] / objects[row], best[row], interpolation)
    return result


def _averaged(recall: np.ndarray, best: np.ndarray, interpolation: Interpolation) -> float:
    """Mean of the best precision at or beyond each recall."""
    if interpolation == "voc10":
        return float((np.diff(recall, prepend=0.0) * best).sum())
    points = _RECALLS if interpolation == "coco" else np.arange(0.0, 1.1, 0.1)
    at = np.searchsorted(recall, points, side="left")
    return float(np.append(best, 0.0)[at].mean())


def resamples(images: int, draws: int = DRAWS) -> np.ndarray:
    """(B, N) how often each image is drawn, the same for every run on as many images."""
    return np.random.default_rng(_SEED).multinomial(images, np.full(images, 1 / images), size=draws)


def resampled(tallies: Sequence[Tally | None], images: int, interpolation: Interpolation) -> np.ndarray:
    """(B, K, T) AP of each class in each resample of the images; NaN for a class that a resample lacks."""
    drawn = resamples(images)
    levels = max((len(tally.hit) for tally in tallies if tally is not None), default=0)
    result = np.full((len(drawn), len(tallies), levels), np.nan)
    for number, tally in enumerate(tallies):
        if tally is None:
            continue
        step = max(1, _BLOCK // max(1, len(tally.image)))
        for begin in range(0, len(drawn), step):
            result[begin : begin + step, number] = ap(tally, drawn[begin : begin + step], interpolation)
    return result


def contributions(tallies: Sequence[Tally | None], images: int, levels: Sequence[int]) -> np.ndarray:
    """(N,) what each image adds to the mean AP over classes and the IoUs `levels`, beyond that mean; they sum to 0.

    N times the derivative of the area under each curve of best precisions with respect to the image's weight.
    """
    total = np.zeros(images)
    counted = [tally for tally in tallies if tally is not None]
    for tally in counted:
        for level in levels:
            total += derivative(tally, level, np.ones(images))
    return images * total / max(1, len(counted) * len(levels))


def derivative(tally: Tally, level: int, weights: np.ndarray) -> np.ndarray:
    """(N,) derivative of a class's area under the curve with respect to the weight of each image, at (N,) weights.

    The area is the sum over hits j of w_j p_j / G: G objects, and p_j the precision at the place that is best from j
    on. Where two places are equally good there is no derivative, but one to each side; the later place's is taken.
    """
    hit, miss, weight = tally.hit[level], tally.miss[level], weights[tally.image]
    objects = weights @ tally.objects
    result = np.zeros(len(weights))
    if not hit.any():
        return result
    hits, seen = np.cumsum(weight * hit), np.cumsum(weight * (hit | miss))
    precision = hits / np.maximum(seen, np.spacing(1))
    best = np.maximum.accumulate(precision[::-1])[::-1]
    place = np.arange(len(precision))
    at = np.minimum.accumulate(np.where(precision == best, place, len(place))[::-1])[::-1]
    result -= tally.objects * float((weight * best)[hit].sum()) / objects**2
    np.add.at(result, tally.image[hit], best[hit] / objects)
    # A detection before the place of later hits moves their precision: a hit up, a miss down.
    share = np.bincount(at[hit], weight[hit], minlength=len(place)) / np.maximum(seen, np.spacing(1)) / objects
    up, down = (np.cumsum((share * part)[::-1])[::-1] for part in (1 - precision, precision))
    np.add.at(result, tally.image[hit], up[hit])
    np.add.at(result, tally.image[miss], -down[miss])
    return result
