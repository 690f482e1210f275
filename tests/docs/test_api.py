"""The Python entry gives what the commands give, and says what is wrong in a sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from evaluate.api import Catalog, extract, knn_top1, load_backbone, measure
from pretrain.runtime.errors import InputError
from pretrain.transforms import test_transform as centre_crop


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    path = tmp_path / "catalog.yaml"
    path.write_text("tiny: {format: shapes, size: 32, train: 200, test: 100, seed: 0}\n")
    return Catalog.load(path)


def test_the_pieces_give_the_number_of_the_task(catalog: Catalog, tmp_path: Path) -> None:
    backbone = load_backbone("random:cifar_resnet20", seed=3)
    train, test = (extract(backbone, catalog.images("tiny", split), device="cpu") for split in ("train", "test"))
    metrics = measure("knn", backbone, "tiny", catalog=catalog, device="cpu", out=tmp_path / "run")
    assert metrics[0].name == "top1"
    assert knn_top1(train, test) == metrics[0].value
    wider = measure("knn", backbone, "tiny", catalog=catalog, device="cpu", changes={"k": 5, "temperature": 0.5})
    assert knn_top1(train, test, k=5, temperature=0.5) == wider[0].value
    assert (tmp_path / "run" / "correct.npy").is_file()


def test_features_are_those_of_the_backbone(catalog: Catalog) -> None:
    backbone = load_backbone("random:cifar_resnet20")
    images = catalog.images("tiny", "test").subset(np.arange(4))
    transform = centre_crop(None, 24)
    features = extract(backbone, images, transform=transform, device="cpu")
    expected = [backbone.module(transform(images.decode(i))[None]).numpy()[0] for i in range(4)]
    np.testing.assert_allclose(features.take(np.arange(4)), expected, rtol=1e-4, atol=1e-5)
    assert features.labels.tolist() == images.labels.tolist()


def test_mistakes_are_told(catalog: Catalog) -> None:
    backbone = load_backbone("random:cifar_resnet20")
    features = extract(backbone, catalog.images("tiny", "test"), device="cpu")
    with pytest.raises(InputError, match="k is 101, but there are only 100 training images"):
        knn_top1(features, features, k=101)
    with pytest.raises(InputError, match=r"unknown task 'kn' \(did you mean 'knn'\?\)"):
        measure("kn", backbone, "tiny", catalog=catalog)
    with pytest.raises(InputError, match="unknown protocol of knn 'moco'"):
        measure("knn", backbone, "tiny", catalog=catalog, protocol="moco")
