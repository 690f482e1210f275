"""mIoU, mAcc and aAcc against loops over pixels, torchmetrics and scikit-learn; and the sheet of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, confusion_matrix, jaccard_score

from evaluate.segmentation import pictures, scores
from pretrain.data.catalog import Catalog
from pretrain.data.readers.masks import IGNORE

K = 5


@pytest.fixture
def maps() -> tuple[np.ndarray, np.ndarray]:
    """Truth (with ignored pixels) and prediction, 40x50, of 5 classes of which class 3 occurs in neither."""
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 1, 2, 4, IGNORE], (40, 50), p=[0.5, 0.2, 0.1, 0.1, 0.1]).astype(np.uint8)
    predicted = np.where(rng.random((40, 50)) < 0.6, truth, rng.choice([0, 1, 2, 4], (40, 50))).astype(np.uint8)
    predicted[predicted == IGNORE] = 0
    return truth, predicted


def test_against_loops_over_pixels(maps: tuple[np.ndarray, np.ndarray]):
    truth, predicted = maps
    matrix = scores.confusion(truth, predicted, K)
    counted = [(int(t), int(p)) for t, p in zip(truth.ravel(), predicted.ravel(), strict=True) if t != IGNORE]
    for k in range(K):
        both = sum(t == p == k for t, p in counted)
        either = sum(k in (t, p) for t, p in counted)
        mine = sum(t == k for t, _ in counted)
        if either:
            assert scores.iou(matrix)[k] == pytest.approx(100 * both / either, abs=1e-12)
            assert scores.accuracy(matrix)[k] == pytest.approx(100 * both / mine, abs=1e-12)
        else:
            assert np.isnan(scores.iou(matrix)[k])
    right = sum(t == p for t, p in counted)
    assert scores.summary(matrix)["aAcc"] == pytest.approx(100 * right / len(counted), abs=1e-12)


def test_against_scikit_learn_and_torchmetrics(maps: tuple[np.ndarray, np.ndarray]):
    from torchmetrics.classification import MulticlassJaccardIndex

    truth, predicted = maps
    matrix = scores.confusion(truth, predicted, K)
    counted = truth != IGNORE
    assert np.array_equal(matrix, confusion_matrix(truth[counted], predicted[counted], labels=range(K)))
    found = scores.summary(matrix)
    present = [0, 1, 2, 4]
    theirs = jaccard_score(truth[counted], predicted[counted], labels=present, average="macro")
    assert found["mIoU"] == pytest.approx(100 * theirs, abs=1e-6)
    assert found["mAcc"] == pytest.approx(100 * balanced_accuracy_score(truth[counted], predicted[counted]), abs=1e-6)
    jaccard = MulticlassJaccardIndex(K, average=None, ignore_index=IGNORE)
    each = jaccard(torch.from_numpy(predicted.astype(np.int64)), torch.from_numpy(truth.astype(np.int64)))
    assert scores.iou(matrix)[present] == pytest.approx(100 * each.double().numpy()[present], abs=1e-4)  # float32
    assert found["mIoU"] == pytest.approx(100 * each.double()[present].mean().item(), abs=1e-4)


def test_rows_leave_out_a_class_that_occurs_nowhere(maps: tuple[np.ndarray, np.ndarray]):
    rows = scores.metrics(scores.confusion(*maps, K), ("a", "b", "c", "d", "e"), images=7)
    assert [row.name for row in rows] == ["mIoU", "mAcc", "aAcc", "IoU/a", "IoU/b", "IoU/c", "IoU/e"]
    assert {(row.unit, row.selection, row.n) for row in rows} == {("%", "last", 7)}


def test_a_class_that_is_only_predicted_counts_as_zero_iou():
    matrix = scores.confusion(np.zeros((2, 2), np.uint8), np.array([[0, 0], [0, 1]], np.uint8), 2)
    assert scores.summary(matrix) == {"mIoU": 37.5, "mAcc": 75.0, "aAcc": 75.0}


def test_sheet_shows_image_truth_and_prediction_in_the_palettes_colours(tiny: Path):
    masks = Catalog.load(tiny).masks("tiny", "test")
    assert pictures.chosen(masks, 3) == [0, 2, 4]
    assert pictures.chosen(masks, 99) == [0, 1, 2, 3, 4]
    wrong = np.full((48, 64), 2, np.uint8)
    page = pictures.sheet(masks, {0: masks.mask(0), 4: wrong})
    cell = 180  # 48x64 at 240 pixels wide
    top, left = 18, [6 + column * 246 for column in range(3)]
    truth, predicted = (page[top : top + cell, x : x + 240] for x in left[1:])
    assert np.array_equal(truth, predicted)
    assert {tuple(c) for c in truth.reshape(-1, 3)} == {(0, 0, 0), (128, 0, 0), (0, 128, 0), (224, 224, 224)}
    second = page[top + cell + 6 : top + 2 * cell + 6, left[2] : left[2] + 240]
    assert {tuple(c) for c in second.reshape(-1, 3)} == {masks.palette[2]}
    assert pictures.as_png(page).startswith(b"\x89PNG")
