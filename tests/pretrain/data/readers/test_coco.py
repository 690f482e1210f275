"""COCO files: what is read, and which mistake is told in which line."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pretrain.data.objects import ObjectSet
from pretrain.data.readers.coco import read_coco
from pretrain.runtime.errors import InputError

IMAGE = {"id": 7, "file_name": "a.jpg", "width": 40, "height": 30}
CATEGORIES = [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}]
THING = {"id": 1, "image_id": 7, "category_id": 90, "bbox": [10, 5, 2, 15], "area": 20, "iscrowd": 0}


def write(root: Path, **parts: Any) -> Path:
    content = {"images": [IMAGE], "categories": CATEGORIES, "annotations": [THING], **parts}
    (root / "a.jpg").write_bytes(b"")
    # One item a line, after a line with the list's name.
    lines = [f'"{key}": [\n' + ",\n".join(json.dumps(item) for item in value) + "\n]" for key, value in content.items()]
    path = root / "instances.json"
    path.write_text("{" + ",\n".join(lines) + "}\n")
    return path


def read(path: Path) -> ObjectSet:
    return read_coco(path.parent, path, name="pets", split="train")


def test_classes_go_by_id_and_boxes_become_edges(tmp_path: Path) -> None:
    crowd = {**THING, "iscrowd": 1, "category_id": 3, "segmentation": {"counts": [1200], "size": [30, 40]}}
    objects = read(write(tmp_path, annotations=[{**THING, "segmentation": [[10, 5, 12, 5, 12, 20]]}, crowd]))
    assert (objects.classes, objects.has_masks) == (("cat", "dog"), True)
    first, second = objects.images[0].objects
    assert (first.category, first.box, first.area, first.crowd) == (1, (10, 5, 12, 20), 20, False)
    assert (second.category, second.crowd) == (0, True)
    assert objects.images[0].image_id == "7"


def test_an_image_without_objects_stays(tmp_path: Path) -> None:
    objects = read(write(tmp_path, annotations=[]))
    assert (len(objects), objects.images[0].objects, objects.has_masks) == (1, (), False)


def test_boxes_without_area_are_left_out_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, annotations=[THING, {**THING, "bbox": [1, 1, 0, 9]}])
    with caplog.at_level(logging.WARNING, "fastmoco"):
        assert len(read(path).images[0].objects) == 1
    assert f"1 boxes without area are left out, the first at {path}:10" in caplog.text


@pytest.mark.parametrize(
    ("parts", "line", "said"),
    [
        ({"annotations": [THING, {**THING, "category_id": 4}]}, 10, "category_id 4 is none of the file's 2 categories"),
        ({"annotations": [{**THING, "image_id": 8}]}, 9, "image_id 8 is none of the file's images"),
        ({"annotations": [{**THING, "bbox": [30, 5, 20, 5]}]}, 9, "lies outside the image of 40 x 30 pixels"),
        ({"annotations": [{**THING, "bbox": [30, 5]}]}, 9, "expected [x, y, width, height]"),
        ({"annotations": [{"id": 1}]}, 9, "an item of 'annotations' has no 'image_id'"),
        ({"images": []}, 1, "the list of images is empty"),
        ({"images": [IMAGE, {**IMAGE, "id": 8, "file_name": "b.jpg"}]}, 3, "no image at"),
        ({"categories": [{"id": 1}]}, 5, "an item of 'categories' has no 'name'"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}, 5, "the same id or name"),
    ],
)
def test_mistakes_are_told_with_file_and_line(tmp_path: Path, parts: dict[str, Any], line: int, said: str) -> None:
    path = write(tmp_path, **parts)
    with pytest.raises(InputError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert said in str(error.value)


def test_files_that_are_no_coco(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file at"):
        read(tmp_path / "nothing.json")
    path = tmp_path / "x.json"
    path.write_text('{"images": [],\n "categories": [}')
    with pytest.raises(InputError, match=r"x.json:2: not valid JSON"):
        read(path)
    path.write_text("[]")
    with pytest.raises(InputError, match="expected an object with images"):
        read(path)
    path.write_text('{"images": [], "annotations": []}')
    with pytest.raises(InputError, match="key 'categories' is missing or no list"):
        read(path)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("kind", "split", "images", "things", "crowds"),
    [
        ("instances", "train", 100, 746, 6),
        ("instances", "val", 100, 712, 5),
        ("boxes", "train", 128, 929, 0),
        ("boxes", "val", 128, 898, 0),
    ],
)
def test_real_coco128(real_data: Path, kind: str, split: str, images: int, things: int, crowds: int) -> None:
    """The numbers of the set's README."""
    folder = real_data / "coco128" / "coco128"
    objects = read_coco(folder / f"{split}2017", folder / f"annotations/{kind}_{split}2017.json", name="c", split=split)
    found = [thing for image in objects.images for thing in image.objects]
    assert (len(objects), len(found), sum(thing.crowd for thing in found)) == (images, things, crowds)
    assert (len(objects.classes), objects.has_masks) == (80, kind == "instances")
    assert objects.classes[0] == "person"
