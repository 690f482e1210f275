"""The sheet of detections: boxes where they are, in the class's colour, and a word where nothing is sure enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as run_lengths

from pretrain.data.objects import ImageObject, ImageObjects, ObjectSet
from pretrain.data.readers.masks import voc_palette

CELL, GAP, HEAD = 280, 6, 18


@pytest.fixture
def objects(tmp_path: Path) -> ObjectSet:
    """Two grey images of 140 x 70 pixels, which the sheet shows twice as large, with a dog each."""
    images = []
    for number in (1, 2):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.full((70, 140, 3), 100, np.uint8)).save(path)
        thing = ImageObject(1, (20, 10, 60, 50), 1600)
        images.append(ImageObjects(str(number), path, 140, 70, (thing,)))
    return ObjectSet("pets", "test", ("cat", "dog"), tuple(images), has_masks=False)


def test_truth_is_white_and_finds_have_their_classes_colour(objects: ObjectSet) -> None:
    from evaluate.detection.measuring import Detections
    from evaluate.detection.pictures import sheet

    inside = np.zeros((70, 140), np.uint8)
    inside[30:40, 80:120] = 1
    rows = np.array([[80.0, 30, 120, 60], [5, 5, 30, 30]])
    masks = [run_lengths.encode(np.asfortranarray(mask)) for mask in (inside, np.zeros_like(inside))]
    sure = Detections(rows, np.array([0.9, 0.2]), np.array([1, 0]), masks)
    none = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=int), [])
    page = sheet(objects, [sure, none], [0, 1])
    assert page.shape == (HEAD + 2 * (140 + GAP), 2 * CELL + 3 * GAP, 3)
    left = page[HEAD : HEAD + 140, GAP : GAP + CELL]
    right = page[HEAD : HEAD + 140, 2 * GAP + CELL : 2 * GAP + 2 * CELL]
    assert {tuple(pixel) for pixel in left[98, 40:119]} == {(255, 255, 255)}  # lower edge of the truth
    dog = voc_palette(3)[2]
    assert {tuple(pixel) for pixel in right[118, 161:239]} == {dog}  # lower edge of the find
    assert tuple(right[76, 225]) == tuple(0.5 * 100 + 0.5 * np.array(dog, dtype=float))  # its mask
    assert (right[20:24, 12:50] == 100).all()  # the other one is not sure enough
    below = page[HEAD + 140 + GAP :, 2 * GAP + CELL :]
    assert (below[:20, :90] != 100).any()  # "best score 0.00"
    assert (below[30:140, :CELL] == 100).all()


def test_images_are_spread_over_the_split() -> None:
    from evaluate.detection.pictures import chosen

    assert chosen(3, 101) == [0, 50, 100]
    assert chosen(8, 2) == [0, 1]
