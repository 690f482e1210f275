"""`fastmoco data list | check | make`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from pretrain.data.catalog import Catalog, ScenesEntry, ShapesEntry
from pretrain.data.gate.check import check_set
from pretrain.data.inventory import list_sets, make_set
from pretrain.data.manifests import imagenet_classes, manifests
from pretrain.runtime.errors import InputError


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    return buffer.getvalue()


def _imagenet(root: Path, classes: list[str]) -> Catalog:
    for name in classes:
        (root / "train" / name).mkdir(parents=True)
        (root / "train" / name / "0.png").write_bytes(_png())
    (root / "catalog.yaml").write_text("imagenet: {format: imagefolder, train: train, test: val}\n")
    return Catalog.load(root / "catalog.yaml")


def test_an_incomplete_imagenet_is_told_what_is_missing(tmp_path: Path) -> None:
    catalog = _imagenet(tmp_path, imagenet_classes()[2:])
    report = check_set(catalog, "imagenet")
    assert not report.ok
    assert "train: class folder missing: n01440764" in report.problems
    assert "train: 998 images, ImageNet-1k (ILSVRC 2012) has 1281167" in report.problems
    assert "train: class too small: n01484850 (1 images, at least 732 expected)" in report.problems
    assert "train: class too small: 988 more" in report.problems
    assert any(f"no folder at {tmp_path}/val" in problem for problem in report.problems)
    assert "https://image-net.org" in str(report)
    assert list_sets(catalog)[0].state == f"missing: {tmp_path}/val"


def test_the_folder_where_a_pattern_starts_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "there" / "part0").mkdir(parents=True)
    (tmp_path / "catalog.yaml").write_text(
        "in_name: {format: parquet, train: 'there/part0/{00..12}.parquet'}\n"
        "in_folder: {format: parquet, train: 'there/part*/x.parquet'}\n"
        "lost: {format: parquet, train: 'gone/part*/x.parquet'}\n"
    )
    states = {line.name: line.state for line in list_sets(Catalog.load(tmp_path / "catalog.yaml"))}
    assert (states["in_name"], states["in_folder"]) == ("there", "there")
    assert states["lost"] == f"missing: {tmp_path}/gone"


def test_what_the_field_counts() -> None:
    assert manifests()["imagenet"].images == {"train": 1_281_167, "val": 50_000}
    assert manifests()["coco"].files == {"instances_train2017.json": 118_287, "instances_val2017.json": 5_000}
    assert manifests()["voc"].lists["VOC2007/trainval"] + manifests()["voc"].lists["VOC2012/trainval"] == 16_551


def test_damaged_images_are_named(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / "train" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "a" / f"{index}.png").write_bytes(_png()[: 45 if index == 1 else None])
    (tmp_path / "catalog.yaml").write_text("m: {format: imagefolder, train: train}\n")
    catalog = Catalog.load(tmp_path / "catalog.yaml")
    assert check_set(catalog, "m").ok
    report = check_set(catalog, "m", open_images=True)
    assert len(report.problems) == 1
    assert "train/a/1.png does not decode" in report.problems[0]
    assert report.splits[0].opened == 3


def test_a_generated_set_as_files_is_the_same_set(tmp_path: Path) -> None:
    catalog = Catalog({"s": ShapesEntry(format="shapes", size=16, train=20)})
    line = make_set(catalog, "s", tmp_path / "out")
    (tmp_path / "catalog.yaml").write_text(line + "\n")
    made = Catalog.load(tmp_path / "catalog.yaml").images("s_files", "train")
    drawn = catalog.images("s", "train")
    first = sorted(drawn.classes)[0]
    assert made.classes[0] == first
    assert (made.decode(0) == drawn.decode(list(drawn.classes).index(first))).all()


def test_made_scenes_check_out(tmp_path: Path) -> None:
    catalog = Catalog({"scenes": ScenesEntry(format="shapes-scenes", size=64, train=3, test=2)})
    (tmp_path / "catalog.yaml").write_text(make_set(catalog, "scenes", tmp_path / "out") + "\n")
    report = check_set(Catalog.load(tmp_path / "catalog.yaml"), "scenes_files", open_images=True)
    assert [(split.images, split.classes, split.opened) for split in report.splits] == [(3, 10, 3), (2, 10, 2)]
    assert report.ok


def test_only_generated_sets_are_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has format 'imagefolder'; only generated sets"):
        make_set(_imagenet(tmp_path, ["n01440764"]), "imagenet", tmp_path / "out")


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["vegetables", "bccd", "coco128", "camvid"])
@pytest.mark.filterwarnings("default")
def test_the_real_sets_are_whole(real_data: Path, name: str) -> None:
    report = check_set(Catalog.load(real_data / "catalog.yaml"), name, open_images=name == "vegetables")
    assert report.ok, str(report)
