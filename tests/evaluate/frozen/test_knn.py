from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluate import knn, task
from evaluate.frozen.features import Features
from evaluate.metrics import load_correct
from evaluate.protocols.knn import PROTOCOLS
from pretrain.backbones.handover import IMAGENET_MEAN, IMAGENET_STD
from pretrain.data.catalog import Catalog
from pretrain.runtime.errors import InputError

CPU = torch.device("cpu")


def features(values: np.ndarray, labels: np.ndarray) -> Features:
    return Features(values.astype(np.float32), np.arange(len(values)), labels)


def slow_scores(train, train_labels, queries, k, temperature, l2, classes):
    """The vote in float64, one pair at a time: what the chunks must reproduce."""
    scores = np.zeros((len(queries), classes))
    for q, query in enumerate(queries.astype(np.float64)):
        similarities = []
        for key in train.astype(np.float64):
            scale = np.linalg.norm(query) * np.linalg.norm(key) if l2 else 1.0
            similarities.append(float(query @ key) / scale)
        order = np.argsort(-np.array(similarities), kind="stable")[:k]
        top = similarities[order[0]]
        for row in order:
            scores[q, train_labels[row]] += np.exp((similarities[row] - top) / temperature)
    return scores


@pytest.mark.parametrize("protocol", ["dino", "lightly", "vissl"])
@pytest.mark.parametrize(("query_chunk", "train_block"), [(7, 11), (64, 8192), (1, 1)])
def test_the_vote_equals_a_slow_one_whatever_the_chunks(protocol: str, query_chunk: int, train_block: int) -> None:
    rng = np.random.default_rng(0)
    train, queries = rng.normal(size=(60, 5)), rng.normal(size=(23, 5))
    labels = rng.integers(0, 4, size=60)
    settings = PROTOCOLS[protocol].model_copy(update={"query_chunk": query_chunk, "train_block": train_block})
    k = 13
    expected = slow_scores(train, labels, queries, k, settings.temperature, settings.l2_normalize, 4)
    got = np.zeros((23, 4))
    for start, similarity, index in knn.neighbours(
        features(train, labels), features(queries, np.zeros(23, dtype=np.int64)), k, settings, CPU
    ):
        assert similarity.shape == (len(index), k)
        votes = knn.vote(similarity, torch.from_numpy(labels)[index], 4, settings)
        got[start : start + len(index)] = votes.numpy()
    np.testing.assert_allclose(got, expected, rtol=2e-5)


def test_uniform_votes_count_neighbours() -> None:
    settings = PROTOCOLS["dino"].model_copy(update={"vote": "uniform"})
    scores = knn.vote(torch.tensor([[0.9, 0.5, 0.1]]), torch.tensor([[2, 1, 1]]), 3, settings)
    assert scores.tolist() == [[0.0, 2.0, 1.0]]


def test_run_reports_each_k_and_saves_which_images_were_right(make_job) -> None:
    job = make_job("knn")
    metrics = task.run("knn", job)
    assert [m.name for m in metrics] == [
        "top1",
        "mean_per_class",
        "top1/k10",
        "top1/k100",
    ]  # 120 train images, 3 classes
    main = metrics[0]
    assert main.detail == {"k": 20}
    assert main.selection == "last"
    assert main.n == 60
    assert main.value > 90
    assert main.ci95 is not None
    assert main.ci95[0] <= main.value <= main.ci95[1]
    assert load_correct(job.out, 60).mean() * 100 == pytest.approx(main.value)


def test_the_second_run_reads_the_cache(make_job, mean_colour) -> None:
    first = task.run("knn", make_job("knn"))
    calls = mean_colour.module.calls
    assert calls == 2  # one batch each of train and test
    assert task.run("knn", make_job("knn", out="again")) == first
    assert mean_colour.module.calls == calls


def test_k_above_the_training_set(make_job, caplog) -> None:
    with pytest.raises(InputError, match=r"k is 500, but there are only 120 training images: expected k <= 120"):
        task.run("knn", make_job("knn", changes={"k": 500}))
    with pytest.raises(InputError, match=r"k is 300, but there are only 120"):
        task.run("knn", make_job("knn", changes={"also_k": "[10, 300]"}))
    with caplog.at_level("INFO", logger="fastmoco"):
        task.run("knn", make_job("knn"))
    assert "k=200 left out: only 120 training images" in caplog.text


def test_few_shot_uses_that_many_of_each_class(make_job) -> None:
    metrics = task.run("knn", make_job("knn", changes={"per_class": 2, "k": 5, "also_k": "[]"}))
    assert metrics[0].value > 80
    with pytest.raises(InputError, match=r"per_class is 41, but class 'c0' of colours has only 40 images"):
        task.run("knn", make_job("knn", changes={"per_class": 41}))


def test_metrics_are_plain_json(make_job) -> None:
    json.dumps([metric.model_dump(mode="json") for metric in task.run("knn", make_job("knn"))])


def many_classes(folder: Path) -> tuple[Catalog, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Seven classes of single-coloured pictures, which overlap; (features (N, 6), labels) as `MeanColour` has them."""
    rng, known = np.random.default_rng(0), {}
    centres = rng.integers(60, 196, (7, 3))
    for split, n in (("train", 35), ("test", 42)):
        labels = np.arange(n) % 7
        colours = (centres[labels] + rng.normal(0, 45, (n, 3))).clip(0, 255).astype(np.uint8)
        for i, (label, colour) in enumerate(zip(labels, colours, strict=True)):
            path = folder / split / f"c{label}" / f"{i:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4), tuple(colour.tolist())).save(path)
        x = (colours / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD) / np.sqrt(1 + 1e-5)
        known[split] = (np.concatenate([x, x**2], axis=1), labels)
    (folder / "catalog.yaml").write_text("many: {format: imagefolder, train: train, test: test}\n")
    return Catalog.load(folder / "catalog.yaml"), known


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 9])
def test_top5_of_few_neighbours_counts_only_classes_that_one_of_them_is_of(make_job, tmp_path: Path, k: int) -> None:
    """With k 1, top5 counted four classes that nobody voted for: 90.25 where the one neighbour's class gives 78.75."""
    catalog, known = many_classes(tmp_path)
    rows = {
        row.name: row.value
        for row in task.run("knn", make_job("knn", changes={"k": k, "also_k": "[]"}, catalog=catalog, data="many"))
    }
    (train, train_labels), (test, labels) = known["train"], known["test"]
    top1 = top5 = 0
    for query, label in zip(test, labels, strict=True):
        similarity = train @ query / np.linalg.norm(train, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-similarity)[:k]
        votes = dict.fromkeys(train_labels[nearest].tolist(), 0.0)
        for row in nearest:
            votes[int(train_labels[row])] += float(np.exp(similarity[row] / 0.07))
        likeliest = sorted(votes, key=lambda name: (-votes[name], name))
        if k >= 5:  # as in DINO's code, classes without a vote fill the five places
            likeliest += [name for name in range(7) if name not in votes]
        top1 += likeliest[0] == label
        top5 += label in likeliest[:5]
    assert rows["top1"] == pytest.approx(100 * top1 / 42)
    assert rows["top5"] == pytest.approx(100 * top5 / 42)
    assert (rows["top5"] == rows["top1"]) == (k == 1)
