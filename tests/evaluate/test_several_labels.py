"""Sets in which an image may be of several classes, through the command: kNN and SVM by mAP, and what they refuse."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.cli import main
from evaluate.checkpoints.load import load_backbone
from pretrain.data.catalog import Catalog

CLASSES = ("car", "dog", "mug", "owl")
XML = "<annotation><size><width>8</width><height>8</height><depth>3</depth></size>{}</annotation>"
OBJECT = (
    "<object><name>{}</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>7</xmax><ymax>7</ymax>"
    "</bndbox></object>"
)


def voc(root: Path, splits: dict[str, list[set[str]]]) -> Path:
    """A catalog of the set `some`: noisy pictures of 8 px in VOC's layout, each with the classes given."""
    rng = np.random.default_rng(0)
    colours = {name: rng.integers(40, 200, 3) for name in CLASSES}
    base = root / "kit/Y"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (base / folder).mkdir(parents=True)
    for split, images in splits.items():
        for i, shown in enumerate(images):
            colour = np.mean([colours[name] for name in sorted(shown)] or [[128, 128, 128]], axis=0)
            noisy = (colour + rng.normal(0, 40, size=(8, 8, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(base / f"JPEGImages/{split}{i}.jpg", quality=95)
            (base / f"Annotations/{split}{i}.xml").write_text(
                XML.format("".join(OBJECT.format(name) for name in sorted(shown)))
            )
        names = "".join(f"{split}{i}\n" for i in range(len(images)))
        (base / f"ImageSets/Main/{split}.txt").write_text(names)
    path = root / "catalog.yaml"
    path.write_text(
        f"some: {{format: voc, root: kit, train: Y/train, test: Y/test, classes: [{', '.join(CLASSES)}]}}\n"
    )
    return path


def drawn(n: int, seed: int, classes: tuple[str, ...] = CLASSES) -> list[set[str]]:
    rng = np.random.default_rng(seed)
    return [{classes[i % len(classes)]} | {name for name in classes if rng.random() < 0.2} for i in range(n)]


def command(monkeypatch, capsys, catalog: Path, task: str, *sets: str) -> tuple[int, str, Path]:
    """Exit code, what was said and the folder of the run."""
    out = catalog.parent / "out"
    words = ["--catalog", str(catalog), "evaluate", task, "--checkpoint", "random:cifar_resnet20", "--data", "some"]
    words += ["--out", str(out), *(word for one in sets for word in ("--set", one))]
    monkeypatch.setattr(sys, "argv", ["fastmoco", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return int(ended.value.code or 0), told, out


def metrics_of(out: Path) -> dict[str, dict]:
    return {metric["name"]: metric for metric in json.loads((out / "result.json").read_text())["metrics"]}


def features_and_labels(catalog: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) in float64, of length 1, and labels (N, K), straight from the pictures."""
    backbone = load_backbone("random:cifar_resnet20", seed=0)
    images = Catalog.load(catalog).images("some", split)
    mean, std = np.array(backbone.metadata.normalization.mean), np.array(backbone.metadata.normalization.std)
    pictures = np.stack([images.decode(row) for row in range(len(images))]) / 255.0
    inputs = torch.from_numpy((pictures - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        features = backbone.module.double().eval()(inputs).numpy()
    return features / np.linalg.norm(features, axis=1, keepdims=True), images.labels


def slow_ap(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the precision-recall curve in percent, precision made non-increasing; no two scores are equal."""
    hits = positive[np.argsort(-scores)]
    precision = [hits[: rank + 1].mean() for rank in range(len(hits))]
    return 100.0 * sum(max(precision[rank:]) for rank in np.flatnonzero(hits)) / hits.sum()


def test_knn_scores_a_class_by_the_weighted_mean_of_the_neighbours_labels(monkeypatch, capsys, tmp_path: Path) -> None:
    """It was a traceback after the features of all images had been taken."""
    catalog = voc(tmp_path, {"train": drawn(40, 1), "test": drawn(20, 2)})
    code, told, out = command(monkeypatch, capsys, catalog, "knn", "k=30", "also_k=[40]", "temperature=0.5")
    assert code == 0, told
    rows = metrics_of(out)
    assert list(rows) == ["mAP", "mAP_11_point", *(f"AP/{name}" for name in CLASSES), "mAP/k40"]
    (train, known), (test, wanted) = (features_and_labels(catalog, split) for split in ("train", "test"))
    for k, suffix in ((30, ""), (40, "/k40")):
        scores = np.zeros(wanted.shape)
        for query, row in zip(test, scores, strict=True):
            similarity = train @ query
            nearest = np.argsort(-similarity)[:k]
            weights = np.exp((similarity[nearest] - similarity[nearest[0]]) / 0.5)
            row[:] = weights @ known[nearest] / weights.sum()
        aps = [slow_ap(scores[:, c], wanted[:, c]) for c in range(len(CLASSES))]
        assert rows[f"mAP{suffix}"]["value"] == pytest.approx(np.mean(aps), abs=1e-6)
        if not suffix:
            assert [rows[f"AP/{name}"]["value"] for name in CLASSES] == pytest.approx(aps, abs=1e-6)
    assert rows["mAP"]["n"] == 20
    assert rows["mAP"]["ci95"][0] <= rows["mAP"]["value"] <= rows["mAP"]["ci95"][1]


@pytest.mark.parametrize("task", ["svm", "knn", "logreg"])
def test_a_class_that_no_test_image_shows_is_left_out_of_the_mean_and_named(
    monkeypatch, capsys, tmp_path: Path, task: str
) -> None:
    """It counted as AP 0, so that two perfect classes of three gave 66.67."""
    catalog = voc(tmp_path, {"train": drawn(40, 1), "test": drawn(20, 2, ("car", "owl"))})
    sets = {"svm": ["costs=[1.0]"], "knn": ["k=30", "also_k=[]"], "logreg": ["grid_size=2"]}[task]
    code, told, out = command(monkeypatch, capsys, catalog, task, *sets)
    assert code == 0, told
    assert "mAP is the mean over 2 of 4 classes: no test image is of dog, mug" in (out / "log.txt").read_text()
    rows = metrics_of(out)
    assert [name for name in rows if name.startswith("AP/")] == ["AP/car", "AP/owl"]
    main_row = rows["mAP_11_point" if task == "logreg" else "mAP"]
    assert main_row["value"] == pytest.approx((rows["AP/car"]["value"] + rows["AP/owl"]["value"]) / 2)
    assert all(rows[name]["detail"]["classes_left_out"] == ["dog", "mug"] for name in ("mAP", "mAP_11_point"))


@pytest.mark.parametrize(
    ("without", "told"),
    [
        (0, "class 'dog' of some is in 40 of its 40 training images, which leaves 0 without it, expected at least one"),
        (1, "class 'dog' of some is in 39 of its 40 training images, which leaves 1 without it, expected at least one"),
        (2, "class 'dog' of some is in 38 of its 40 training images, which leaves 2 without it, expected at least one"),
        (38, "class 'dog' of some has 2 training images, expected at least one in each of 3 folds"),
    ],
)
def test_an_svm_needs_a_positive_and_a_negative_in_every_fold(
    monkeypatch, capsys, tmp_path: Path, without: int, told: str
) -> None:
    """Without a negative liblinear had one class alone: a traceback after all features had been taken."""
    train = [shown - {"dog"} | ({"dog"} if i >= without else set()) for i, shown in enumerate(drawn(40, 1))]
    catalog = voc(tmp_path, {"train": train, "test": drawn(12, 2)})
    code, said, out = command(monkeypatch, capsys, catalog, "svm", "costs=[1.0]")
    assert code == 2, said
    assert told in said.splitlines()[-1]
    assert not out.exists()


def test_as_many_negatives_as_folds_are_enough(monkeypatch, capsys, tmp_path: Path) -> None:
    train = [shown - {"dog"} | ({"dog"} if i >= 3 else set()) for i, shown in enumerate(drawn(40, 1))]
    catalog = voc(tmp_path, {"train": train, "test": drawn(12, 2)})
    code, told, out = command(monkeypatch, capsys, catalog, "svm", "costs=[1.0]")
    assert code == 0, told
    assert 0 < metrics_of(out)["mAP"]["value"] <= 100
