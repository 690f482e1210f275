"""Wrong data and wrong checkpoints end with exit code 2 and one sentence that names file and line."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import doctor
from benchmarks.cli import main
from pretrain.runtime.errors import InputError

XML = """<annotation>
  <size><width>40</width><height>30</height><depth>3</depth></size>
  <object>
    <name>{name}</name>
    <bndbox><xmin>5</xmin><ymin>5</ymin><xmax>{right}</xmax><ymax>20</ymax></bndbox>
  </object>
</annotation>
"""
# One item a line, so that lines can be told.
JSON = """{{"images": [
{images}
],
"categories": [
{{"id": 1, "name": "cat"}}
],
"annotations": [
{{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10]}},
{{"id": 2, "image_id": 1, "category_id": {category}, "bbox": [5, 5, {width}, 10]}}
]}}
"""
IMAGE = '{"id": 1, "file_name": "a.jpg", "width": 40, "height": 30}'


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """A catalog with a VOC tree `voc` and a COCO file `coco` that are right; the tests put mistakes in."""
    pixels = Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8))
    for folder in ("tree/Annotations", "tree/JPEGImages", "tree/ImageSets/Main", "images"):
        (tmp_path / folder).mkdir(parents=True)
    pixels.save(tmp_path / "tree/JPEGImages/a.jpg")
    pixels.save(tmp_path / "images/a.jpg")
    (tmp_path / "tree/ImageSets/Main/train.txt").write_text("a\n")
    (tmp_path / "tree/Annotations/a.xml").write_text(XML.format(name="cat", right=30))
    (tmp_path / "a.json").write_text(JSON.format(images=IMAGE, category=1, width=10))
    path = tmp_path / "catalog.yaml"
    path.write_text(
        "voc: {format: voc, root: ., train: [tree/train], test: [tree/train], classes: [cat]}\n"
        "coco: {format: coco, train: {images: images, json: a.json}, test: {images: images, json: a.json}}\n"
    )
    return path


def evaluate(catalog: Path, data: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    """The exit code of `fastmoco evaluate detection`."""
    given = {"--checkpoint": "random:cifar_resnet20", "--protocol": "smoke_resnet20", "--device": "cpu"}
    given |= dict(zip(options[::2], options[1::2], strict=True))
    arguments = [part for option in given.items() for part in option]
    out = ["--out", str(catalog.parent / "out")]
    monkeypatch.setattr(
        sys, "argv", ["fastmoco", "--catalog", str(catalog), "evaluate", "detection", "--data", data, *arguments, *out]
    )
    with pytest.raises(SystemExit) as left:
        main()
    assert isinstance(left.value.code, int)
    return left.value.code


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error that the command left with, and no traceback."""
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("fastmoco: ", "Traceback"))]
    assert len(lines) == 1, lines
    return lines[0].removeprefix("fastmoco: ")


@pytest.mark.parametrize(
    ("mistake", "line", "sentence"),
    [
        ({"name": "cat", "right": 60}, 5, "lies outside the image of 40 x 30 pixels"),
        ({"name": "cow", "right": 30}, 4, "unknown class of data set 'voc' 'cow'; available: cat"),
    ],
)
def test_wrong_xml(
    catalog: Path,
    mistake: dict[str, object],
    line: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = catalog.parent / "tree" / "Annotations" / "a.xml"
    path.write_text(XML.format(**mistake))
    assert evaluate(catalog, "voc", monkeypatch) == 2
    told = said(capsys)
    assert told.startswith(f"{path}:{line}: ")
    assert sentence in told


@pytest.mark.parametrize(
    ("mistake", "line", "sentence"),
    [
        ({"category": 7}, 9, "category_id 7 is none of the file's 1 categories"),
        ({"width": 60}, 9, "lies outside the image of 40 x 30 pixels"),
        ({"images": ""}, 1, "the list of images is empty"),
    ],
)
def test_wrong_json(
    catalog: Path,
    mistake: dict[str, object],
    line: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = catalog.parent / "a.json"
    path.write_text(JSON.format(**{"images": IMAGE, "category": 1, "width": 10, **mistake}))
    if "images" not in mistake:
        json.loads(path.read_text())
    assert evaluate(catalog, "coco", monkeypatch) == 2
    told = said(capsys)
    assert told.startswith(f"{path}:{line}: ")
    assert sentence in told


def test_an_empty_list_of_images(
    catalog: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = catalog.parent / "tree" / "ImageSets" / "Main" / "train.txt"
    path.write_text("\n")
    assert evaluate(catalog, "voc", monkeypatch) == 2
    assert said(capsys) == f"{path}:1: the list names no image"


def test_a_checkpoint_of_another_architecture(
    catalog: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(catalog, "voc", monkeypatch, "--protocol", "smoke_r18_c4") == 2
    assert "random:cifar_resnet20 holds a cifar_resnet20, but protocol 'smoke_r18_c4' trains a resnet18" in said(capsys)


def test_masks_that_are_not_there(
    catalog: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(catalog, "voc", monkeypatch, "--set", "masks=true") == 2
    assert "trains masks, but data set 'voc', split 'train', has objects without" in said(capsys)


def test_another_batch_is_told_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    from evaluate.detection.task import _say
    from evaluate.protocols.detection import PROTOCOLS

    with caplog.at_level(logging.INFO, "fastmoco"):
        _say(PROTOCOLS["voc0712_r50_c4_24k"].override({"global_batch_size": 4}), 16551)
    assert caplog.messages == [
        "batch 4 instead of 16: lr 0.005 instead of 0.02, 96000 iterations instead of 24000 (linear rule)",
        "96000 iterations of 4 images: 23.2 epochs",
        "the source of 'voc0712_r50_c4_24k' averages 5 trials: run as many seeds",
    ]


def test_doctor_says_which_detectron2_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def line() -> str:
        return next(line for line in doctor.examine().splitlines() if line.startswith("detectron2"))

    monkeypatch.setattr("evaluate.detection.installed", lambda: "0.6+pure")
    assert line().endswith("0.6+pure (by fastmoco's installer; RoIAlign and NMS are torchvision's)")
    monkeypatch.setattr("evaluate.detection.installed", lambda: "0.6 compiled")
    assert line().endswith("0.6 compiled")


def test_a_set_whose_objects_are_all_difficult(
    catalog: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ended with no metric and exit code 0."""
    path = catalog.parent / "tree/Annotations/a.xml"
    path.write_text(path.read_text().replace("</name>", "</name><difficult>1</difficult>"))
    assert evaluate(catalog, "voc", monkeypatch) == 2
    assert said(capsys) == (
        "data set 'voc', split 'test': no image holds an object that counts: of its 1 objects 0 are crowds and 1 are "
        "difficult"
    )


@pytest.mark.parametrize(("things", "told"), [("crowds", "2 objects 2 are crowds"), ("nothing", "no objects at all")])
def test_sets_of_crowds_or_of_nothing(
    catalog: Path, things: str, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = catalog.parent / "a.json"
    content = json.loads(path.read_text())
    content["annotations"] = [{**one, "iscrowd": 1} for one in content["annotations"]] if things == "crowds" else []
    path.write_text(json.dumps(content))
    assert evaluate(catalog, "coco", monkeypatch) == 2
    assert told in said(capsys)


def test_a_damaged_test_image_is_told_before_training(
    catalog: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cut short behind its header, which is whole: only decoding shows it."""
    images = catalog.parent / "images"
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(images / "b.jpg", quality=95)
    (images / "b.jpg").write_bytes((images / "b.jpg").read_bytes()[:900])
    (catalog.parent / "b.json").write_text(JSON.format(images=IMAGE.replace("a.jpg", "b.jpg"), category=1, width=10))
    catalog.write_text(
        catalog.read_text().replace("test: {images: images, json: a.json}", "test: {images: images, json: b.json}")
    )
    monkeypatch.setattr("evaluate.detection.training.Training.run", lambda self: pytest.fail("trained"))
    assert evaluate(catalog, "coco", monkeypatch) == 2
    assert f"image {images / 'b.jpg'} does not decode" in said(capsys)
    assert not (catalog.parent / "out").exists()


@pytest.mark.parametrize("mode", ["truncated", "RGB", "another size", "no such object"])
def test_wrong_masks_of_objects(
    catalog: Path, mode: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = catalog.parent / "tree/SegmentationObject/a.png"
    path.parent.mkdir()
    values = np.zeros((30, 40), np.uint8)
    values[5:15, 5:15] = 0 if mode == "no such object" else 1
    picture = Image.fromarray(values[:20] if mode == "another size" else values)
    (picture.convert("RGB") if mode == "RGB" else picture).save(path)
    if mode == "truncated":
        path.write_bytes(path.read_bytes()[:-30])
    assert evaluate(catalog, "voc", monkeypatch, "--set", "masks=true") == 2
    told = {
        "truncated": "cannot be read",
        "RGB": "mode is RGB",
        "another size": "are 40 x 20 pixels, but the image is 40 x 30",
        "no such object": "hold no pixel of object 1 of tree/a",
    }
    line = said(capsys)
    assert str(path) in line
    assert told[mode] in line


def test_names_with_spaces_and_other_suffixes(tmp_path: Path) -> None:
    from pretrain.data.catalog import Catalog

    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    for stem, suffix in (("a b", ".tif"), ("c 1", ".PNG"), ("d", ".bmp")):
        Image.fromarray(np.zeros((30, 40, 3), dtype=np.uint8)).save(tmp_path / f"JPEGImages/{stem}{suffix}")
        (tmp_path / f"Annotations/{stem}.xml").write_text(XML.format(name="cat", right=30))
    (tmp_path / "ImageSets/Main/cat_train.txt").write_text("a b  1\nc 1 -1\nd  1\n")
    (tmp_path / "ImageSets/Main/train.txt").write_text("a b\nc 1\nd\n")
    (tmp_path / "catalog.yaml").write_text(
        "s: {format: voc, root: ., train: [train], test: [cat_train], classes: [cat]}"
    )
    catalog = Catalog.load(tmp_path / "catalog.yaml")
    for split in ("train", "test"):
        objects = catalog.objects("s", split)
        assert [image.path.name for image in objects.images] == ["a b.tif", "c 1.PNG", "d.bmp"]
        assert [image.pixels().shape for image in objects.images] == [(30, 40, 3)] * 3
    (tmp_path / "JPEGImages/d.jpg").write_bytes((tmp_path / "JPEGImages/d.bmp").read_bytes())
    with pytest.raises(InputError, match="two images of one name"):
        catalog.objects("s", "train")
