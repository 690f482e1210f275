"""COCO files: what is read, and which mistake is told in which line."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_utils

from pretrain.data.objects import ObjectSet
from pretrain.data.readers.coco import read_coco
from pretrain.data.readers.json_lists import list_items
from pretrain.data.run_lengths import decoded, fault_of
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


@pytest.mark.parametrize(
    ("parts", "line", "said"),
    [
        ({"images": [{**IMAGE, "width": None}]}, 2, "image 'a.jpg': width is None"),
        ({"images": [{**IMAGE, "height": "30"}]}, 2, "image 'a.jpg': height is '30'"),
        ({"images": [{**IMAGE, "file_name": None}]}, 2, "file_name is None"),
        ({"images": [IMAGE, IMAGE]}, 3, "image id 7 stands twice, for 'a.jpg' in line 2 and for 'a.jpg' here"),
        ({"images": [IMAGE, {**IMAGE, "id": 8}]}, 3, "image 'a.jpg' is listed twice, first in line 2"),
        ({"images": [{**IMAGE, "id": [7]}]}, 2, "id is [7], expected a whole number or a text"),
        ({"categories": [{"id": 1, "name": "a"}, {"id": "b", "name": "b"}]}, 6, "of several kinds: 1 and 'b'"),
        ({"annotations": [{**THING, "category_id": "90"}]}, 9, "annotation 1: category_id '90' is none of"),
        ({"annotations": [{**THING, "bbox": [float("nan"), 5, 2, 15]}]}, 9, "annotation 1: bbox is [nan, 5, 2, 15]"),
        ({"annotations": [{**THING, "bbox": ["10", 5, 2, 15]}]}, 9, "expected [x, y, width, height]"),
        ({"annotations": [{**THING, "bbox": None}]}, 9, "expected [x, y, width, height]"),
        ({"annotations": [{**THING, "area": "big"}]}, 9, "annotation 1: area is 'big'"),
        ({"annotations": [{**THING, "area": None}]}, 9, "annotation 1: area is None"),
        ({"annotations": [{**THING, "iscrowd": "0"}]}, 9, "iscrowd is '0', expected 0 or 1"),
        ({"annotations": [{**THING, "segmentation": [[1, 2, "x", 4, 5, 6]]}]}, 9, "a polygon holds 'x'"),
        ({"annotations": [{**THING, "segmentation": [[1, 2, 3]]}]}, 9, "a polygon has 3 numbers"),
        ({"annotations": [{**THING, "segmentation": [1, 2, 3, 4, 5, 6]}]}, 9, "a polygon is no list"),
        ({"annotations": [{**THING, "segmentation": "all"}]}, 9, "neither a list of polygons nor run lengths"),
        ({"annotations": [{**THING, "segmentation": {"counts": [9], "size": [30, 40]}}]}, 9, "cover 9 pixels of 1200"),
        ({"annotations": [{**THING, "segmentation": {"counts": [1200], "size": [40, 30]}}]}, 9, "are of size [40, 30]"),
        ({"annotations": [{**THING, "segmentation": {"counts": "`U", "size": [30, 40]}}]}, 9, "end within a number"),
        ({"annotations": [{**THING, "segmentation": {"counts": "\u0001", "size": [30, 40]}}]}, 9, "no character of"),
        ({"annotations": [{**THING, "segmentation": {"counts": [-1, 1201], "size": [30, 40]}}]}, 9, "fewer than no"),
    ],
)
def test_damaged_entries_are_told_with_file_line_and_object(
    tmp_path: Path, parts: dict[str, Any], line: int, said: str
) -> None:
    path = write(tmp_path, **parts)
    with pytest.raises(InputError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}:{line}: ")
    assert said in str(error.value)


def test_lists_stand_in_any_order_and_masks_come_back_as_they_were(tmp_path: Path) -> None:
    """COCO's own files have their categories last; polygons are kept as whole hundredths where they are such."""
    polygons = [
        [[10.25, 5, 12.01, 5.5, 12, 19.99]],
        [[10.123456789, 5, 12, 5, 12, 20], [11, 6, 12, 6, 12, 7]],
        {"counts": "`U1", "size": [30, 40]},
    ]
    polygons[2]["counts"] = mask_utils.encode(np.asfortranarray(np.eye(30, 40, dtype=np.uint8)))["counts"].decode()
    things = [{**THING, "id": number, "segmentation": mask} for number, mask in enumerate(polygons)]
    (tmp_path / "a.jpg").write_bytes(b"")
    (tmp_path / "b.jpg").write_bytes(b"")
    path = tmp_path / "x.json"
    images = [{**IMAGE, "id": 9, "file_name": "b.jpg"}, IMAGE]
    path.write_text(
        json.dumps({"info": {"x": [1, {"y": "]"}]}, "annotations": things, "images": images, "categories": CATEGORIES})
    )
    objects = read(path)
    assert [image.image_id for image in objects.images] == ["9", "7"]
    assert [len(image.objects) for image in objects.images] == [0, 3]
    assert [thing.segmentation for thing in objects.images[1].objects] == polygons
    assert (objects.category_ids, objects.integer_ids, objects.only_polygons()) == ((3, 90), True, False)
    assert objects.taught().tolist() == [False, True]
    few = objects.subset(np.array([1]))
    assert (len(few), few.images[0], few.sizes().tolist()) == (1, objects.images[1], [[40, 30]])
    assert few.identity() != objects.identity()


@settings(max_examples=30)
@given(st.data())
def test_run_lengths_are_pycocotools(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40))
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.asfortranarray(np.array(bits, np.uint8).reshape(height, width))
    text = mask_utils.encode(mask)["counts"].decode()
    runs, turn = [], 0
    for value, group in itertools.groupby(mask.ravel(order="F").tolist()):
        runs += [0] if value != turn else []  # the first run is outside, though it may be empty
        runs.append(len(list(group)))
        turn = 1 - value
    assert decoded(text) == runs
    assert fault_of({"counts": text, "size": [height, width]}, height, width) is None
    assert fault_of({"counts": text + "1", "size": [height, width]}, height, width) is not None


def test_a_file_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers, texts and lists that are cut by the end of a piece are whole in the next, and lines are counted on."""
    path = write(tmp_path, annotations=[{**THING, "id": number} for number in range(50)])
    whole = list(list_items(path, ("images", "annotations", "categories")))
    monkeypatch.setattr("pretrain.data.readers.json_lists._CHUNK", 7)
    assert list(list_items(path, ("images", "annotations", "categories"))) == whole
    assert [item.line for item in whole if item.key == "annotations"] == list(range(9, 59))


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
