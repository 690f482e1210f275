"""What a user may get wrong, told in one sentence with exit code 2: each through the command itself."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from benchmarks.cli import main
from pretrain.backbones import registry
from pretrain.backbones.handover import BackboneMetadata, write_backbone


def png(label: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (40 + 60 * label, 100, 200 - 50 * label)).save(stream, "PNG")
    return stream.getvalue()


def parquet(path: Path, labels: list[int]) -> None:
    images = [{"bytes": png(label % 4), "path": f"{row}.png"} for row, label in enumerate(labels)]
    layout = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, layout), "label": pa.array(labels, pa.int64())}), path)


def folder(path: Path, counts: dict[str, int]) -> None:
    for name, n in counts.items():
        (path / name).mkdir(parents=True)
        for i in range(n):
            (path / name / f"{i}.png").write_bytes(png(i % 4))


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    parquet(tmp_path / "train.parquet", [0, 1, 2] * 4)
    parquet(tmp_path / "test.parquet", [0, 1, 2])
    parquet(tmp_path / "wild.parquet", [0, 1, 2, 7])
    parquet(tmp_path / "negative.parquet", [0, 1, -1])
    parquet(tmp_path / "empty.parquet", [])
    parquet(tmp_path / "single.parquet", [1] * 6)
    folder(tmp_path / "pets/train", {"cat": 3, "dog": 3})
    folder(tmp_path / "pets/test", {"cat": 2, "fish": 2})
    folder(tmp_path / "bare/train", {"cat": 3, "dog": 3})
    folder(tmp_path / "bare/test", {"cat": 0, "dog": 0})
    path = tmp_path / "catalog.yaml"
    path.write_text(
        """
good:      {format: parquet, train: train.parquet, test: test.parquet, classes: 3}
wild:      {format: parquet, train: wild.parquet, test: test.parquet, classes: 3}
wild_test: {format: parquet, train: train.parquet, test: wild.parquet, classes: 3}
negative:  {format: parquet, train: negative.parquet, test: test.parquet, classes: 3}
empty:     {format: parquet, train: train.parquet, test: empty.parquet, classes: 3}
no_train:  {format: parquet, train: empty.parquet, test: test.parquet, classes: 3}
single:    {format: parquet, train: single.parquet, test: test.parquet, classes: 3}
miscount:  {format: imagefolder, train: pets/train, test: pets/train, classes: 5}
fish:      {format: imagefolder, train: pets/train, test: pets/test}
bare:      {format: imagefolder, train: bare/train, test: bare/test}
no_test:   {format: parquet, train: train.parquet, classes: 3}
"""
    )
    return path


def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one sentence of a command that ends with 2."""
    monkeypatch.setattr(sys, "argv", ["fastmoco", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert ended.value.code == 2, told
    assert "Traceback" not in told
    sentences = [line for line in told.splitlines() if not line.startswith(("INFO", "["))]
    return sentences[-1]


@pytest.mark.parametrize("task", ["knn", "linear", "finetune"])
@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("wild", "labels run from 0 to 7, expected 0 to 2"),
        ("wild_test", "labels run from 0 to 7, expected 0 to 2"),
        ("negative", "labels run from -1 to 1, expected 0 to 2"),
        ("empty", "empty"),
        ("no_train", "empty"),
        ("single", "all images are of one class"),
        ("miscount", "the catalog says 5 classes, its files have 2"),
        ("fish", "fish"),
        ("bare", "no image"),
        ("no_test", "unknown split of data set 'no_test' 'test'"),
        ("nowhere", "unknown data set 'nowhere'"),
    ],
)
def test_data_that_cannot_be_measured(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    catalog: Path,
    task: str,
    data: str,
    told: str,
) -> None:
    out = tmp_path / "out"
    words = ("evaluate", task, "--checkpoint", "random:cifar_resnet20", "--data", data, "--out", out)
    assert told in refused(monkeypatch, capsys, "--catalog", catalog, *words)
    assert not out.exists()


@pytest.mark.parametrize(
    ("task", "options", "told"),
    [
        ("knn", ["k=13"], "k is 13, but there are only 12 training images: expected k <= 12"),
        ("knn", ["also_k=[5,40]", "k=1"], "k is 40, but there are only 12 training images"),
        ("knn", ["k=0"], "k is 0, expected at least 1"),
        ("knn", ["per_class=5", "k=1"], "per_class is 5, but class '0' of good has only 4 images"),
        ("knn", ["layers=9", "k=1"], "layers is 9, but backbone 'cifar_resnet20' has only"),
        ("knn", ["patch_average=true", "k=1"], "patch_average needs a backbone with patch tokens"),
        ("linear", ["lrs=[]"], "lrs is [], expected at least 1 item"),
        ("linear", ["lrs=[0.1,-1]"], "every lr must be above 0"),
        ("linear", ["held_out=0"], "held_out is 0, expected more than 0"),
        ("logreg", ["metric=accuracy"], "metric is 'accuracy', expected"),
        ("svm", [], "has one label an image: svm is for several (VOC07)"),
        ("finetune", ["epochs=1"], "global_batch_size is 256, but there are only 12 training images"),
        ("semi", ["percent=0"], "percent is 0, expected more than 0"),
        ("semi", ["per_class=9"], "class 0 has 4 images, 9 a class were asked for"),
    ],
)
def test_settings_that_do_not_fit(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    catalog: Path,
    task: str,
    options: list[str],
    told: str,
) -> None:
    sets = [word for option in options for word in ("--set", option)]
    words = ("evaluate", task, "--checkpoint", "random:cifar_resnet20", "--data", "good", *sets)
    assert told in refused(monkeypatch, capsys, "--catalog", catalog, *words, "--out", tmp_path / "out")


@pytest.mark.parametrize("task", ["knn", "linear", "logreg"])
def test_weights_that_give_nan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, catalog: Path, task: str
) -> None:
    module = registry.build("cifar_resnet20")
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] = float(np.nan)
    path = tmp_path / "broken.safetensors"
    write_backbone(path, module.state_dict(), BackboneMetadata(backbone="cifar_resnet20", method="test"))
    words = ("evaluate", task, "--checkpoint", path, "--data", "good", "--set", "per_class=4")
    told = refused(monkeypatch, capsys, "--catalog", catalog, *words, "--out", tmp_path / "out")
    assert "NaN" in told
    assert "broken.safetensors" in told
