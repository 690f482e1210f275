"""The bootstrap over images and each image's share of AP, against slow and obvious ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluate.detection import library
from pretrain.data.objects import ImageObject, ImageObjects, ObjectSet

N = 14


@pytest.fixture(scope="module")
def case() -> tuple[ObjectSet, list[Any]]:
    """Images of two classes (and a third that one image alone has), some found well, some not, with false alarms."""
    library.load()
    from evaluate.detection.measuring import Detections

    rng = np.random.default_rng(4)
    images, found = [], []
    for number in range(N):
        boxes = rng.uniform(0, 60, (rng.integers(1, 4), 2))
        boxes = np.concatenate([boxes, boxes + rng.uniform(8, 30, boxes.shape)], axis=1)
        kinds = rng.integers(0, 2, len(boxes))
        kinds[0] = 2 if number == 3 else kinds[0]
        things = tuple(
            ImageObject(
                int(kind), tuple(map(float, box)), float(np.prod(box[2:] - box[:2])), difficult=bool(rng.random() < 0.1)
            )
            for box, kind in zip(boxes, kinds, strict=True)
        )
        images.append(ImageObjects(str(number), Path(f"{number}.jpg"), 100, 100, things))
        seen = np.concatenate(
            [boxes + rng.normal(0, 2, boxes.shape), rng.uniform(0, 40, (2, 4)) + np.array([0, 0, 45, 45])]
        )
        labels = np.concatenate([kinds, rng.integers(0, 2, 2)])
        scores = np.sort(rng.random(len(seen)))[::-1].copy()
        found.append(Detections(seen, scores, labels, None))
    return ObjectSet("pets", "test", ("cat", "dog", "cow"), tuple(images), has_masks=False), found


@pytest.mark.parametrize("interpolation", ["coco", "voc07", "voc10"])
def test_resamples_are_sets_in_which_images_stand_as_often_as_they_were_drawn(
    case: tuple[ObjectSet, list[Any]], interpolation: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evaluate.detection import scoring, tallies

    objects, found = case
    monkeypatch.setattr(tallies.resamples, "__defaults__", (25,))
    rows = {row.name: row for row in scoring.metrics(objects, found, interpolation, masks=False)}
    slow: dict[str, list[float]] = {"AP": [], "AP50": [], "AP75": [], "AP/dog": []}
    with monkeypatch.context() as patch:
        patch.setattr(scoring, "resampled", lambda *_: np.full((2, 3, 10), 0.5))
        for weights in tallies.resamples(N):
            drawn = np.repeat(np.arange(N), weights)
            copies = replace(objects, images=tuple(objects.images[number] for number in drawn))
            values = {
                row.name: row.value
                for row in scoring.metrics(copies, [found[number] for number in drawn], interpolation, masks=False)
            }
            for name, kept in slow.items():
                kept.append(values[name])
    for name, values in slow.items():
        assert rows[name].ci95 == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])), abs=1e-9), name
        assert rows[name].ci95[0] <= rows[name].value <= rows[name].ci95[1]


def test_shares_are_the_derivative_of_ap(case: tuple[ObjectSet, list[Any]]) -> None:
    """Of the area under the curve, which has one; its mean is the row's value."""
    from evaluate.detection import scoring
    from evaluate.detection.tallies import ap, derivative

    objects, found = case
    judged = scoring._judge_voc(objects, found, "voc10")
    shares = scoring.measured(objects, found, "voc10", masks=False).shares
    assert shares.mean() == pytest.approx(judged.rows["AP"] / 100, abs=1e-12)

    # At weights that leave no two precisions equal, as there the area has no derivative.
    weights, step = np.random.default_rng(1).uniform(0.5, 2, N), 1e-6
    for tally in judged.tallies:
        for level in (0, 5):
            found_slopes = derivative(tally, level, weights)
            for number, slope in enumerate(found_slopes):
                up, down = weights.copy(), weights.copy()
                up[number] += step
                down[number] -= step
                low, high = (ap(tally, at[None], "voc10")[0, level] for at in (down, up))
                assert slope == pytest.approx((high - low) / (2 * step), abs=1e-6)
            assert weights @ found_slopes == pytest.approx(0, abs=1e-12)


def test_shares_spread_as_the_bootstrap_does() -> None:
    """What a paired test takes for the standard error of COCO's AP is that of resampling, on a set of some size."""
    from evaluate.detection.tallies import Tally, contributions, resampled

    rng = np.random.default_rng(0)
    images, detections = 400, 3000
    objects = rng.integers(0, 4, images).astype(float)
    image = rng.integers(0, images, detections)
    likely = np.linspace(0.95, 0.05, detections) * (0.4 + 0.6 * rng.random(images))[image]
    hit = (rng.random(detections) < likely)[None] & (
        np.cumsum(np.eye(images)[image], axis=0)[np.arange(detections), image] <= objects[image]
    )
    tally = Tally(image, hit, ~hit, objects)
    drawn = resampled([tally], images, "coco")[:, 0, 0]
    error = contributions([tally], images, [0]).std(ddof=1) / np.sqrt(images)
    assert error == pytest.approx(drawn.std(ddof=1), rel=0.12)
