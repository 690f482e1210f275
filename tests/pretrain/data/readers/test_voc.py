"""VOC trees: what is read, to the pixel, and which mistake is told in which line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pretrain.data.catalog import Catalog
from pretrain.data.objects import ObjectSet
from pretrain.data.readers.voc import read_voc
from pretrain.runtime.errors import InputError

OBJECT = """  <object>
    <name>{name}</name>
    <difficult>{difficult}</difficult>
    <bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
  </object>
"""
HEAD = """<annotation>
  <size><width>40</width><height>30</height><depth>3</depth></size>
"""


def tree(root: Path, objects: str, *, head: str = HEAD, listing: str = "a\n") -> Path:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / "Y" / folder).mkdir(parents=True)
    (root / "Y/Annotations/a.xml").write_text(f"{head}{objects}</annotation>\n")
    (root / "Y/JPEGImages/a.jpg").write_bytes(b"")
    (root / "Y/ImageSets/Main/train.txt").write_text(listing)
    return root


def read(root: Path) -> ObjectSet:
    return read_voc(root, ("Y/train",), ("cat", "dog"), name="pets", split="train")


def test_boxes_are_between_pixel_edges(tmp_path: Path) -> None:
    things = OBJECT.format(name="dog", difficult=1, box=(1, 1, 40, 30)) + OBJECT.format(
        name="cat", difficult=0, box=(11, 6, 12, 20)
    )
    objects = read(tree(tmp_path, things))
    (image,) = objects.images
    assert (image.image_id, image.width, image.height, objects.has_masks) == ("Y/a", 40, 30, False)
    first, second = image.objects
    assert (first.category, first.box, first.area, first.difficult) == (1, (0, 0, 40, 30), 1200, True)
    assert (second.category, second.box, second.area, second.difficult) == (0, (10, 5, 12, 20), 30, False)


def test_counting_from_zero_is_cut_to_the_image(tmp_path: Path) -> None:
    objects = read(tree(tmp_path, OBJECT.format(name="cat", difficult=0, box=(0, 0, 41, 10))))
    assert objects.images[0].objects[0].box == (0, 0, 40, 10)


def test_boxes_without_area_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = tree(tmp_path, OBJECT.format(name="cat", difficult=0, box=(9, 9, 9, 9)))
    with caplog.at_level(logging.WARNING, "fastmoco"):
        assert read(root).images[0].objects == ()
    assert "1 boxes without area" in caplog.text
    assert f"{root}/Y/Annotations/a.xml:6" in caplog.text


@pytest.mark.parametrize(
    ("name", "box", "line", "said"),
    [
        ("cow", (1, 1, 9, 9), 4, "unknown class of data set 'pets' 'cow'; available: cat, dog"),
        ("cat", (1, 1, 60, 9), 6, "lies outside the image of 40 x 30 pixels"),
        ("cat", (-5, 1, 9, 9), 6, "lies outside the image of 40 x 30 pixels"),
        ("cat", (9, 1, 3, 9), 6, "xmax or ymax is less than xmin or ymin"),
        ("cat", ("x", 1, 3, 9), 6, "<xmin> is 'x', expected a number"),
    ],
)
def test_mistakes_are_told_with_file_and_line(
    tmp_path: Path, name: str, box: tuple[object, ...], line: int, said: str
) -> None:
    root = tree(tmp_path, OBJECT.format(name=name, difficult=0, box=box))
    with pytest.raises(InputError) as error:
        read(root)
    assert f"{root}/Y/Annotations/a.xml:{line}: " in str(error.value)
    assert said in str(error.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train.txt:1: the list names no image"):
        read(tree(tmp_path / "empty", "", listing="\n"))
    with pytest.raises(InputError, match=r"no annotation at .*b.xml"):
        read(tree(tmp_path / "xml", "", listing="b\n"))
    with pytest.raises(InputError, match=r"a.xml:1: <annotation> has no <size>"):
        read(tree(tmp_path / "size", "", head="<annotation>"))
    with pytest.raises(InputError, match=r"a.xml:3: not valid XML"):
        read(tree(tmp_path / "broken", "<object>"))
    with pytest.raises(InputError, match=r"no list of images at .*train.txt"):
        read(tmp_path / "nowhere")
    root = tree(tmp_path / "image", "")
    (root / "Y/JPEGImages/a.jpg").unlink()
    with pytest.raises(InputError, match=r"no image at .*a.jpg"):
        read(root)


def test_sets_without_boxes_are_refused() -> None:
    with pytest.raises(InputError, match="format 'shapes', which holds no boxes"):
        Catalog().objects("shapes", "train")
    with pytest.raises(InputError, match="unknown split of data set 'scenes' 'val'"):
        Catalog().objects("scenes", "val")


@pytest.mark.real_data
def test_real_blood_cells(real_data: Path) -> None:
    """364 images, 4888 boxes of which 2 have no area (the set's README)."""
    classes = ("RBC", "WBC", "Platelets")
    sets = [
        read_voc(real_data / "bccd", (f"BCCD/{name}",), classes, name="bccd", split=name)
        for name in ("trainval", "test")
    ]
    assert [len(objects) for objects in sets] == [292, 72]
    things = [thing for objects in sets for image in objects.images for thing in image.objects]
    assert len(things) == 4886
    assert [sum(thing.category == number for thing in things) for number in range(3)] == [4153, 372, 361]
