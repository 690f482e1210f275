"""Logistic regression and SVMs on features, and average precision."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from evaluate import metrics, task
from evaluate.frozen import regression
from evaluate.frozen.features import Features
from evaluate.protocols.logreg import PROTOCOLS as LOGREG
from pretrain.data.images import ImageSet
from pretrain.runtime.errors import InputError


def several_labels(images: ImageSet) -> ImageSet:
    """The same pictures with two labels each: the colour, and whether the class is above 0; some are ignored."""
    first = np.eye(3, dtype=bool)[images.labels]
    labels = np.concatenate([first, (images.labels > 0)[:, None]], axis=1)
    ignored = np.zeros_like(labels)
    ignored[::7, 1] = ~labels[::7, 1]
    return ImageSet(
        images._source, name="tags", split=images.split, classes=("a", "b", "c", "d"), labels=labels, ignored=ignored
    )


def noisy(n: int, classes: int, width: int, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).normal(size=(classes, width))
    labels = rng.integers(0, classes, size=n)
    values = (centres[labels] + 1.5 * rng.normal(size=(n, width))) * np.linspace(0.2, 5, width) + 2
    return Features(values.astype(np.float32), np.arange(n), labels)


@pytest.mark.parametrize("C", [1e-3, 1.0, 30.0])
def test_the_minimum_is_scikit_learns(C: float) -> None:
    data = noisy(300, 4, 6)
    mask = np.ones(300, dtype=bool)
    mask[::5] = False
    found, _point = regression.fit(
        regression.Objective([regression.Part(data, mask)], 4), C, start=None, max_iterations=2000, tolerance=1e-8
    )
    theirs = LogisticRegression(C=C, max_iter=10_000, tol=1e-10).fit(
        data.values[mask].astype(np.float64), data.labels[mask]
    )
    np.testing.assert_allclose(found.weight.T, theirs.coef_, atol=2e-3)
    np.testing.assert_array_equal(found.scores(data).argmax(axis=1), theirs.predict(data.values.astype(np.float64)))


def test_the_gradient_is_the_values_slope() -> None:
    data = noisy(80, 3, 4)
    objective = regression.Objective([regression.Part(data, np.ones(80, dtype=bool))], 3)
    point = np.random.default_rng(0).normal(size=15) * 0.3
    _value, gradient = objective(point, 2.0)
    for i in range(15):
        step = np.zeros(15)
        step[i] = 1e-2
        slope = (objective(point + step, 2.0)[0] - objective(point - step, 2.0)[0]) / 2e-2
        assert gradient[i] == pytest.approx(slope, abs=2e-4)


def test_the_grid_of_45() -> None:
    grid = LOGREG["dinov2"].grid()
    np.testing.assert_allclose(grid, np.logspace(-6, 5, 45))
    np.testing.assert_allclose(sorted(1 / np.array(LOGREG["transfer"].grid())), np.logspace(-6, 5, 45))


@pytest.mark.parametrize("protocol", ["dinov2", "transfer"])
def test_logreg_end_to_end(make_job, protocol: str) -> None:
    job = make_job("logreg", protocol, {"grid_size": 6})
    rows = task.run("logreg", job)
    assert rows[0].selection == "held_out"
    assert rows[0].value > 90
    told = json.loads((job.out / "logreg.json").read_text())
    assert told["held_out_images"] == (12 if protocol == "dinov2" else 24)
    assert rows[0].detail["C"] == told["tried"][told["chosen"]]["C"]


@pytest.mark.parametrize(("name", "changes"), [("logreg", {"grid_size": 4}), ("svm", {"costs": "[0.1, 10]"})])
def test_several_labels_give_map(make_job, name: str, changes: dict[str, object]) -> None:
    plain = make_job(name, None, changes)
    catalog = type(plain.catalog)(
        **{split: several_labels(plain.catalog.images("", split)) for split in ("train", "test")}
    )
    rows = task.run(name, make_job(name, None, changes, catalog=catalog))
    first = ["mAP", "mAP_11_point"] if name == "svm" else ["mAP_11_point", "mAP"]  # as Kornblith et al. report VOC07
    assert [row.name for row in rows] == [*first, "AP/a", "AP/b", "AP/c", "AP/d"]
    assert rows[0].value > 90
    assert rows[0].value == pytest.approx(np.mean([row.value for row in rows[2:]]))
    assert rows[0].ci95 is not None


def test_svm_wants_several_labels(make_job) -> None:
    with pytest.raises(InputError, match="one label an image: svm is for several"):
        task.run("svm", make_job("svm"))


def test_average_precision_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    positive = np.array([True, False, True, False, True])
    # precisions at the positives: 1, 2/3, 3/5, at recalls 1/3, 2/3, 1
    area = (1 + 2 / 3 + 3 / 5) / 3
    eleven = (4 * 1 + 3 * 2 / 3 + 4 * 3 / 5) / 11
    assert metrics.average_precision(scores, positive, eleven_point=False) == pytest.approx(area)
    assert metrics.average_precision(scores, positive, eleven_point=True) == pytest.approx(eleven)
    assert np.isnan(metrics.average_precision(scores, np.zeros(5, dtype=bool), eleven_point=True))


def test_equal_scores_are_taken_together() -> None:
    positive = np.array([True, False])
    for order in ([0, 1], [1, 0]):
        assert metrics.average_precision(np.ones(2), positive[order], eleven_point=False) == 0.5
