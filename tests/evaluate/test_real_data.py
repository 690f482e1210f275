"""Other people's weights and real photographs: what the probes say of them is known from elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluate import task
from evaluate.checkpoints.load import load_backbone
from evaluate.frozen.features import extract
from evaluate.inputs import test_input as input_of
from evaluate.protocols.base import TaskProtocol
from evaluate.protocols.knn import PROTOCOLS
from evaluate.task import Job, resolve_protocol
from pretrain.data.catalog import Catalog
from pretrain.data.splits import few
from pretrain.runtime.errors import InputError

CPU = torch.device("cpu")
TRAIN, TEST = 2000, 1000


def job_of(backbone, catalog: Catalog, data: str, protocol: TaskProtocol, folder: Path, name: str) -> Job:
    out = folder / name
    out.mkdir()
    return Job(backbone, catalog, data, protocol, seed=0, device=CPU, out=out, cache=folder / "cache")


@pytest.mark.long
@pytest.mark.real_data
def test_probes_come_near_the_classifier_that_came_with_the_weights(real_data: Path, tmp_path: Path) -> None:
    """A CIFAR ResNet-20 of other people on 1,000 test images: its own classifier, trained with all labels, is the mark.

    On all 10,000 images, with all 50,000 for training, its classifier has 81.03 %, kNN 83.39, the sweep 83.68 and
    logistic regression 83.80: it was trained on the original pixels, this set holds them as JPEG, and the probes are
    trained on what they are tested on. Here a twenty-fifth of the labels has to do.
    """
    path = real_data / "checkpoints-cifar-resnet/resnet20-12fca82f.th"
    backbone = load_backbone(path)
    catalog = Catalog.load(real_data / "catalog.yaml")
    limits = {"train_limit": TRAIN, "test_limit": TEST}
    found = {}
    for name, protocol, changes in (
        ("knn", "dino", {}),
        ("linear", "sweep", {}),
        ("logreg", "dinov2", {"grid_size": 12, "max_iterations": 200}),
    ):
        resolved = resolve_protocol(name, protocol, {**changes, **limits})
        rows = task.run(name, job_of(backbone, catalog, "cifar10", resolved, tmp_path, name))
        assert (rows[0].name, rows[0].n) == ("top1", TEST)
        found[name] = rows[0].value

    head = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    weight, bias = (head[f"module.linear.{key}"] for key in ("weight", "bias"))
    test = catalog.images("cifar10", "test")
    test = test.subset(few(test.labels, fraction=TEST / len(test), seed=0))
    transform = input_of(PROTOCOLS["dino"], test, backbone.metadata.normalization)
    features = extract(backbone, test, transform, CPU, tmp_path / "cache")
    logits: Tensor = torch.from_numpy(features.take(np.arange(TEST))) @ weight.T + bias
    own = 100 * float((logits.argmax(dim=1).numpy() == test.labels).mean())
    assert own == pytest.approx(81.03, abs=3.0)
    for name, value in found.items():
        assert own - 1.0 < value < own + 5.0, (name, value, own)


@pytest.mark.long
@pytest.mark.real_data
def test_vegetables_at_224_with_classes_from_train(real_data: Path, tmp_path: Path) -> None:
    """Photographs of 22 classes, of which val lacks four: the class list is train's, and val cannot be measured."""
    backbone = load_backbone("random:resnet18")
    catalog = Catalog.load(real_data / "catalog.yaml")
    train, val = (catalog.images("vegetables", split) for split in ("train", "val"))
    assert train.classes == val.classes
    assert (len(train.classes), len(np.unique(train.labels)), len(np.unique(val.labels))) == (22, 22, 18)
    few = {"train_limit": 88, "test_limit": 60, "also_k": []}
    protocol = resolve_protocol("knn", "dino", {**few, "test_split": "val"})
    with pytest.raises(InputError, match="split val: no image has class 'Garlic'"):
        task.run("knn", job_of(backbone, catalog, "vegetables", protocol, tmp_path, "val"))
    protocol = resolve_protocol("knn", "dino", few)
    rows = task.run("knn", job_of(backbone, catalog, "vegetables", protocol, tmp_path, "knn"))
    assert [row.name for row in rows] == ["top1", "top5", "mean_per_class"]
    assert rows[0].value > 100 / 22  # colour alone tells that much
    shapes = {np.load(path, mmap_mode="r").shape[1] for path in (tmp_path / "cache").rglob("*.npy")}
    assert shapes == {512}
