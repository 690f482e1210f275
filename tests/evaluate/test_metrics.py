from __future__ import annotations

import numpy as np
import pytest

from evaluate import metrics


def test_values_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    top5 = np.array([[0, 1], [0, 2], [1, 0], [1, 0], [2, 1], [2, 0]])
    rows = metrics.accuracies(top5, labels, 3, seed=0)
    by_name = {row.name: row.value for row in rows}
    assert list(by_name) == ["top1", "mean_per_class"]
    assert by_name["top1"] == pytest.approx(100 * 4 / 6)
    assert by_name["mean_per_class"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 1) / 3)


def test_main_metric_comes_first_and_top5_needs_more_than_five_classes() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 8, size=50)
    top5 = np.stack([rng.permutation(8)[:5] for _ in labels])
    rows = metrics.accuracies(top5, labels, 8, seed=0, main="mean_per_class")
    assert [row.name for row in rows] == ["mean_per_class", "top1", "top5"]
    assert rows[2].value == pytest.approx(
        100 * np.mean([label in row for label, row in zip(labels, top5, strict=True)])
    )


def test_intervals_agree_with_resampling_images_one_by_one() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, size=300)
    correct = rng.random(300) < np.array([0.9, 0.7, 0.5, 0.2])[labels]
    top1, per_class = [], []
    for _ in range(4000):
        chosen = rng.integers(0, 300, size=300)
        top1.append(100 * correct[chosen].mean())
        per_class.append(100 * np.mean([correct[chosen][labels[chosen] == c].mean() for c in range(4)]))
    share = metrics.share("top1", correct, seed=0)
    _value, ci95 = metrics.mean_per_class(correct, labels, seed=0)
    np.testing.assert_allclose(share.ci95, np.percentile(top1, [2.5, 97.5]), atol=0.5)
    np.testing.assert_allclose(ci95, np.percentile(per_class, [2.5, 97.5]), atol=0.5)


def test_equal_scores_go_to_the_lower_class() -> None:
    assert metrics.top_classes(np.array([[0.0, 1.0, 1.0], [2.0, 2.0, 2.0]]), 2).tolist() == [[1, 2], [0, 1]]


def test_correctness_survives_packing(tmp_path) -> None:
    correct = np.random.default_rng(0).random(77) < 0.5
    metrics.save_correct(tmp_path, correct)
    assert (tmp_path / "correct.npy").stat().st_size < 200
    np.testing.assert_array_equal(metrics.load_correct(tmp_path, 77), correct)
