"""The catalog: entries, mistakes that name their line, and identities."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.data.catalog import Catalog, ImageFolderEntry, ShapesEntry
from pretrain.runtime.errors import InputError


def _catalog(folder: Path, text: str) -> Catalog:
    path = folder / "catalog.yaml"
    path.write_text(text)
    return Catalog.load(path)


def _folder(root: Path, splits: dict[str, dict[str, int]]) -> None:
    for split, classes in splits.items():
        for name, count in classes.items():
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8 + index, 8), (index, 10, 20)).save(root / split / name / f"{index}.png")


def test_built_in_sets_are_always_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Catalog.load().names() == ["scenes", "shapes"]
    catalog = _catalog(
        tmp_path, "mine: {format: imagefolder, train: a}\nshapes: {format: shapes, size: 32, train: 20}\n"
    )
    assert catalog.names() == ["mine", "scenes", "shapes"]
    entry = catalog.entry("shapes")
    assert isinstance(entry, ShapesEntry)
    assert (entry.size, entry.splits()) == (32, ("train",))
    monkeypatch.setenv("FASTMOCO_CATALOG", str(tmp_path / "catalog.yaml"))
    assert isinstance(Catalog.load().entry("mine"), ImageFolderEntry)
    assert Catalog.load().places.resolve("a") == tmp_path / "a"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: {format: imagefolder, train: x}\nb:\n  format: imagefolder\n  trian: x\n", "catalog.yaml:4: unknown key"),
        ("a: {format: folder, train: x}", "catalog.yaml:1: "),
        ("a: {format: parquet}", "at least one of train, val, test"),
        ("a:\n  format: shapes\n  size: big\n", "catalog.yaml:3: "),
        ("a: {format: torchvision, root: x, name: CIFAR}", "CIFAR10"),
        ("a: {format: masks, classes: [x], train: {images: x}}", "'a.masks.train.masks' is missing"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        _catalog(tmp_path, text)
    assert says in str(error.value)
    assert "catalog.yaml" in str(error.value)


def test_unknown_names_say_what_exists(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, "a: {format: imagefolder, train: x}\n")
    with pytest.raises(InputError, match=r"unknown data set 'shape' \(did you mean 'shapes'\?\)"):
        catalog.entry("shape")
    with pytest.raises(InputError, match="unknown split of data set 'a' 'test'; available: train"):
        catalog.images("a", "test")
    with pytest.raises(InputError, match="holds no labelled images"):
        catalog.images("scenes", "train")
    with pytest.raises(InputError, match=f"no file at {tmp_path}/none.yaml"):
        Catalog.load(tmp_path / "none.yaml")


def test_importing_the_catalog_needs_no_torch() -> None:
    code = "import sys, pretrain.data.catalog, pretrain.views.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_identity_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    _folder(tmp_path / "here", {"train": {"a": 2, "b": 1}})
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    text = "mine: {format: imagefolder, train: train}\n"
    here, there = _catalog(tmp_path / "here", text), _catalog(tmp_path / "there", text)
    assert here.identity("mine") == there.identity("mine")
    assert here.images("mine", "train").identity == there.images("mine", "train").identity
    Image.new("RGB", (99, 9)).save(tmp_path / "there" / "train" / "b" / "0.png")
    assert here.identity("mine") != there.identity("mine")
    (tmp_path / "there" / "train" / "b" / "0.png").unlink()
    assert here.identity("mine") != there.identity("mine")


def test_identity_of_a_generated_set_is_that_of_its_parameters(tmp_path: Path) -> None:
    catalog = _catalog(
        tmp_path,
        "a: {format: shapes, train: 20}\nb: {format: shapes, train: 20}\nc: {format: shapes, train: 20, seed: 1}\n",
    )
    assert catalog.identity("a") == catalog.identity("b") != catalog.identity("c")


def test_image_folder(tmp_path: Path) -> None:
    _folder(tmp_path, {"train": {"b": 2, "a": 1, "c": 1}, "val": {"c": 2}})
    catalog = _catalog(tmp_path, "mine: {format: imagefolder, train: train, val: val, classes: 3}\n")
    train, val = catalog.images("mine", "train"), catalog.images("mine", "val")
    assert train.classes == val.classes == ("a", "b", "c")
    assert train.labels.tolist() == [0, 1, 1, 2]
    assert val.labels.tolist() == [2, 2]  # the number comes from train's classes, not from the split at hand
    assert train.decode(2).shape == (8, 9, 3)
    assert train.decode(2)[0, 0].tolist() == [1, 10, 20]
    assert train.where(2) == str(tmp_path / "train" / "b" / "1.png")
    part = train.subset(np.array([2, 0])).subset(np.array([1]))
    assert (part.where(0), part.labels.tolist()) == (str(tmp_path / "train" / "a" / "0.png"), [0])
    with pytest.raises(IndexError):
        part.decode(1)


def test_image_folder_mistakes(tmp_path: Path) -> None:
    _folder(tmp_path, {"train": {"a": 1}, "val": {"b": 1}})
    with pytest.raises(InputError, match="classes that train lacks: b"):
        _catalog(tmp_path, "m: {format: imagefolder, train: train, val: val}\n").images("m", "val")
    with pytest.raises(InputError, match="says 4 classes, its files have 1"):
        _catalog(tmp_path, "m: {format: imagefolder, train: train, classes: 4}\n").images("m", "train")
    with pytest.raises(InputError, match=r"lies in .*train/a itself; expected one folder a class"):
        _catalog(tmp_path, "m: {format: imagefolder, train: train/a}\n").images("m", "train")
    with pytest.raises(InputError, match=r"no folder at .*nowhere"):
        _catalog(tmp_path, "m: {format: imagefolder, train: nowhere}\n").images("m", "train")
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"\x89PNG not really")
    with pytest.raises(InputError, match=r"image .*train/a/0.png does not decode \(15 bytes\)"):
        _catalog(tmp_path, "m: {format: imagefolder, train: train}\n").images("m", "train").decode(0)
