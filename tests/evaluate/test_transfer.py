"""The transfer sets of the field, from the shipped catalog: tiny stand-ins in the layout that torchvision reads."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import cifar, flowers102

from benchmarks.campaign.spec import load_spec
from evaluate import task
from evaluate.frozen import sweep
from evaluate.frozen.features import Features
from evaluate.frozen.heads import Heads, train_heads
from evaluate.inputs import main_metric
from pretrain.data import torchvision_facts
from pretrain.data.catalog import VOC_CLASSES, Catalog, TorchvisionEntry

K = 3
RNG = np.random.default_rng(0)
COLOURS = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])


def pixels(label: int, side: int = 12) -> np.ndarray:
    return (COLOURS[label] + RNG.normal(0, 30, size=(side, side, 3))).clip(0, 255).astype(np.uint8)


def picture(path: Path, label: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(label)).save(path, format="PNG")
    return path


def several(n: int) -> list[int]:
    return [label for _ in range(n) for label in range(K)]


def make_cifar(root: Path, folder: str, files: dict[str, int], key: str, meta: str, names: str) -> None:
    base = root / folder
    base.mkdir(parents=True)
    for name, per_class in files.items():
        labels = several(per_class)
        data = np.stack([pixels(label, 32).transpose(2, 0, 1).ravel() for label in labels])
        (base / name).write_bytes(pickle.dumps({"data": data, key: labels}))
    (base / meta).write_bytes(pickle.dumps({names: [f"class {k}" for k in range(K)]}))


def make_cifar10(root: Path) -> None:
    files = {**{f"data_batch_{i}": 1 for i in range(1, 6)}, "test_batch": 2}
    make_cifar(root, "cifar-10-batches-py", files, "labels", "batches.meta", "label_names")


def make_cifar100(root: Path) -> None:
    make_cifar(root, "cifar-100-python", {"train": 5, "test": 2}, "fine_labels", "meta", "fine_label_names")


def make_food101(root: Path) -> None:
    for split, n in (("train", 5), ("test", 2)):
        listed = {f"dish{k}": [f"dish{k}/{split}{i}" for i in range(n)] for k in range(K)}
        for k in range(K):
            for name in listed[f"dish{k}"]:
                picture(root / "food-101/images" / f"{name}.jpg", k)
        (root / "food-101/meta").mkdir(exist_ok=True)
        (root / f"food-101/meta/{split}.json").write_text(json.dumps(listed))


def make_pets(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for split, n in (("trainval", 5), ("test", 2)):
        lines = []
        for i, label in enumerate(several(n)):
            picture(base / "images" / f"breed{label}_{split}{i}.jpg", label)
            lines.append(f"breed{label}_{split}{i} {label + 1} 1 1")
        (base / f"annotations/{split}.txt").write_text("\n".join(lines) + "\n")


def make_flowers(root: Path) -> None:
    labels = [label for n in (5, 2, 2) for label in several(n)]
    for i, label in enumerate(labels, start=1):
        picture(root / "flowers-102/jpg" / f"image_{i:05d}.jpg", label)
    savemat(root / "flowers-102/imagelabels.mat", {"labels": np.array(labels) + 1})
    ids = {"trnid": np.arange(1, 16), "valid": np.arange(16, 22), "tstid": np.arange(22, 28)}
    savemat(root / "flowers-102/setid.mat", ids)


def make_cars(root: Path) -> None:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    for split, n, path in (("train", 5, "devkit/cars_train_annos.mat"), ("test", 2, "cars_test_annos_withlabels.mat")):
        rows = np.empty(n * K, dtype=[("fname", object), ("class", object)])
        for i, label in enumerate(several(n)):
            picture(base / f"cars_{split}" / f"{i:05d}.jpg", label)
            rows[i] = (f"{i:05d}.jpg", np.uint8(label + 1))
        savemat(base / path, {"annotations": rows})
    savemat(base / "devkit/cars_meta.mat", {"class_names": np.array([f"car {k}" for k in range(K)], dtype=object)})


def make_aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    data.mkdir(parents=True)
    (data / "variants.txt").write_text("".join(f"variant {k}\n" for k in range(K)))
    for split, n in (("train", 5), ("val", 2), ("test", 2)):
        lines = []
        for i, label in enumerate(several(n)):
            picture(data / "images" / f"{split}{i}.jpg", label)
            lines.append(f"{split}{i} variant {label}\n")
        (data / f"images_variant_{split}.txt").write_text("".join(lines))


def make_dtd(root: Path) -> None:
    base = root / "dtd/dtd"
    (base / "labels").mkdir(parents=True)
    for split, n in (("train", 5), ("val", 2), ("test", 2)):
        names = [f"texture{label}/{split}{i}.jpg" for i, label in enumerate(several(n))]
        for name, label in zip(names, several(n), strict=True):
            picture(base / "images" / name, label)
        (base / f"labels/{split}1.txt").write_text("\n".join(names) + "\n")


def make_caltech101(root: Path) -> None:
    base = root / "caltech101/101_ObjectCategories"
    for k in range(K):
        for i in range(1, 33):
            picture(base / f"thing{k}" / f"image_{i:04d}.jpg", k)
    picture(base / "BACKGROUND_Google/image_0001.jpg", 0)


def make_sun397(root: Path) -> None:
    base = root / "SUN397"
    for split, n in (("Training", 5), ("Testing", 2)):
        names = [f"s/place{label}/sun_{split}{i}.jpg" for i, label in enumerate(several(n))]
        for name, label in zip(names, several(n), strict=True):
            picture(base / name, label)
        (base / f"{split}_01.txt").write_text("".join(f"/{name}\n" for name in names))
    (base / "ClassName.txt").write_text("".join(f"/s/place{k}\n" for k in range(K)))


# catalog name -> maker, images of (train, val, test) of the stand-in, the field's metric
STAND_INS: dict[str, tuple[Callable[[Path], None], tuple[int, int, int], str]] = {
    "cifar10": (make_cifar10, (15, 0, 6), "top1"),
    "cifar100": (make_cifar100, (15, 0, 6), "top1"),
    "food101": (make_food101, (15, 0, 6), "top1"),
    "pets": (make_pets, (15, 0, 6), "mean_per_class"),
    "flowers": (make_flowers, (15, 6, 6), "mean_per_class"),
    "cars": (make_cars, (15, 0, 6), "top1"),
    "aircraft": (make_aircraft, (15, 6, 6), "mean_per_class"),
    "dtd": (make_dtd, (15, 6, 6), "top1"),
    "caltech101": (make_caltech101, (90, 0, 6), "mean_per_class"),
    "sun397": (make_sun397, (15, 0, 6), "top1"),
}


@pytest.fixture
def catalog(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalog:
    """The shipped catalog, its `~` the test's folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    return Catalog.load(repository / "docs/examples/transfer_catalog.yaml")


def shrink(name: str, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Make the stand-in, and let the table of the sets' sizes know of it."""
    make, (train, val, test), _metric = STAND_INS[name]
    entry = catalog.entry(name)
    assert isinstance(entry, TorchvisionEntry)
    known = torchvision_facts.SETS[entry.name]
    classes = 102 if name == "flowers" else K  # torchvision numbers its classes whatever is there
    small = dataclasses.replace(known, classes=classes, train=train, val=val, test=test)
    monkeypatch.setitem(torchvision_facts.SETS, entry.name, small)
    for module in (cifar, flowers102):  # checksums of the real files
        monkeypatch.setattr(module, "check_integrity", lambda *_args, **_kwargs: True)
    make(root / "data")


@pytest.mark.parametrize("name", sorted(STAND_INS))
def test_a_transfer_set_with_its_official_splits_and_metric(
    make_job, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    _make, (train, val, test), metric = STAND_INS[name]
    shrink(name, catalog, monkeypatch, tmp_path)
    assert (len(catalog.images(name, "train")), len(catalog.images(name, "test"))) == (train, test)
    job = make_job("logreg", "transfer", {"grid_size": 5, "image_size": 16, "resize": 16}, catalog=catalog, data=name)
    rows = task.run("logreg", job)
    assert (rows[0].name, rows[0].n, rows[0].selection) == (metric, test, "held_out")
    assert rows[0].value > 80
    told = json.loads((job.out / "logreg.json").read_text())
    assert told["held_out_images"] == (val or round(0.2 * train))
    assert metric in told["tried"][0]


def test_val_is_chosen_on_and_then_trained_on(
    make_job, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    shrink("aircraft", catalog, monkeypatch, tmp_path)
    changes = {"image_size": 16, "resize": 16, "min_steps": 60}
    job = make_job("linear", "transfer", changes, catalog=catalog, data="aircraft")
    fitted_on: list[int] = []

    def noting(data: Features, *arguments, **options) -> Heads:
        fitted_on.append(len(data))
        return train_heads(data, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "train_heads", noting)
        rows = task.run("linear", job)
    assert fitted_on == [15, 21]  # all pairs on train; the chosen one on train and val
    assert json.loads((job.out / "sweep.json").read_text())["held_out_images"] == 6
    assert (rows[0].name, rows[0].n) == ("mean_per_class", 6)
    # An entry whose train is train and val already must not be judged on images it has seen.
    joined = Catalog({"aircraft": catalog.entry("aircraft").model_copy(update={"join_val": True})}, catalog.path)
    with caplog.at_level("INFO", logger="fastmoco"):
        job = make_job("linear", "transfer", changes, catalog=joined, data="aircraft", out="joined")
        task.run("linear", job)
    assert "its train holds val (join_val): 0.2 of train is held out" in caplog.text
    assert json.loads((job.out / "sweep.json").read_text())["held_out_images"] == 3  # of 21: a fifth of each class


XML = "<annotation><size><width>12</width><height>12</height><depth>3</depth></size>{}</annotation>"
OBJECT = (
    "<object><name>{}</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax>"
    "</bndbox></object>"
)


def make_voc07(root: Path, classes: tuple[str, ...]) -> None:
    """Every image shows two of the 20 classes; its hue tells the first one."""
    base = root / "VOCdevkit/VOC2007"
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (base / folder).mkdir(parents=True)
    listed: dict[str, list[str]] = {}
    for split in ("train", "val", "test"):
        for i in range(60):
            stem, first, second = f"{split}{i}", i % 20, (i + 1) % 20
            hue = np.array([first * 12, 255 - first * 12, (first * 53) % 255])
            noisy = (hue + RNG.normal(0, 5, size=(12, 12, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(base / f"JPEGImages/{stem}.jpg", quality=95)
            objects = OBJECT.format(classes[first]) + OBJECT.format(classes[second])
            (base / f"Annotations/{stem}.xml").write_text(XML.format(objects))
            listed.setdefault(split, []).append(stem)
    listed["trainval"] = listed["train"] + listed["val"]
    for split, stems in listed.items():
        (base / f"ImageSets/Main/{split}.txt").write_text("\n".join(stems) + "\n")


@pytest.mark.parametrize(
    ("name", "protocol", "data", "changes"),
    [
        ("logreg", "transfer", "voc07", {"grid_size": 3}),
        ("svm", "pooled", "voc07_trainval", {"costs": "[0.1, 10]"}),
    ],
)
def test_voc07_is_measured_by_the_field_s_map(
    make_job, catalog: Catalog, tmp_path: Path, name: str, protocol: str, data: str, changes: dict[str, object]
) -> None:
    make_voc07(tmp_path / "data", VOC_CLASSES)
    sizes = {"image_size": 16, "resize": 16}
    job = make_job(name, protocol, {**changes, **sizes}, catalog=catalog, data=data)
    rows = task.run(name, job)
    assert (rows[0].name, rows[0].n) == ("mAP" if name == "svm" else "mAP_11_point", 60)
    assert [row.name for row in rows[2:]] == [f"AP/{known}" for known in VOC_CLASSES]
    assert rows[0].value == pytest.approx(np.mean([row.value for row in rows[2:]]))
    assert rows[0].value > 20  # two of twenty by chance: about 10


def test_a_metric_that_is_asked_for_comes_first(make_job) -> None:
    for name, protocol, changes in (
        ("knn", None, {}),
        ("linear", "moco_v3", {"global_batch_size": 40, "epochs": 1}),
        ("linear", "sweep", {"min_steps": 10}),
        ("logreg", None, {"grid_size": 2}),
        ("finetune", "barlow_twins", {"global_batch_size": 40, "epochs": 1}),
    ):
        job = make_job(name, protocol, {**changes, "metric": "mean_per_class"}, out=f"{name}-{protocol}")
        assert task.run(name, job)[0].name == "mean_per_class"
    assert main_metric(make_job("knn"), False) == "top1"


def test_the_transfer_campaign_names_sets_and_protocols_that_exist(repository: Path, catalog: Catalog) -> None:
    spec = load_spec(repository / "benchmarks/campaigns/transfer.yaml").spec
    assert [entry.data for entry in spec.evaluate if entry.task == "logreg"] == [*STAND_INS, "voc07"]
    for entry in spec.evaluate:
        catalog.entry(entry.data)
        assert task.resolve_protocol(entry.task, entry.protocol, entry.set).name == entry.protocol
