"""VOC's AP against a slow definition and detectron2's evaluator, COCO's rows against values by hand."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as run_lengths

from evaluate.detection.precision import Found, Truth, average_precisions, iou
from pretrain.data.objects import ImageObject, ImageObjects, ObjectSet
from pretrain.runtime.errors import InputError

IOUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def slow_ap(truths: dict[int, Truth], found: Found, threshold: float, eleven: bool) -> float:
    """The development kit's text, one detection after the other."""
    positives = sum(1 for truth in truths.values() for difficult in truth.difficult if not difficult)
    used: set[tuple[int, int]] = set()
    points: list[tuple[float, float]] = []
    hits = misses = 0
    for n in sorted(range(len(found.scores)), key=lambda n: -found.scores[n]):
        image = int(found.images[n])
        overlaps = [float(iou(found.boxes[n], box[None])[0]) for box in truths[image].boxes]
        best = max(range(len(overlaps)), key=lambda m: overlaps[m], default=-1)
        if best >= 0 and overlaps[best] > threshold:
            if truths[image].difficult[best]:
                continue
            if (image, best) in used:
                misses += 1
            else:
                used.add((image, best))
                hits += 1
        else:
            misses += 1
        points.append((hits / positives, hits / (hits + misses)))
    if eleven:
        # The kit's own eleven numbers: 0.30000000000000004 is one, which a recall of 3/10 does not reach.
        return sum(max([p for r, p in points if r >= i], default=0.0) for i in np.arange(0, 1.1, 0.1)) / 11
    area, last = 0.0, 0.0
    for recall in sorted({r for r, _ in points}):
        area += (recall - last) * max(p for r, p in points if r >= recall)
        last = recall
    return area


def random_case(seed: int) -> tuple[dict[int, Truth], Found]:
    rng = np.random.default_rng(seed)
    truths, boxes, images = {}, [], []
    for image in range(4):
        corner = rng.integers(0, 40, (3, 2))
        real = np.concatenate([corner, corner + rng.integers(8, 20, (3, 2))], axis=1).astype(float)
        truths[image] = Truth(real, rng.random(3) < 0.25)
        near = real[rng.integers(0, 3, 6)] + rng.normal(0, 1.5, (6, 4))
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        boxes.append(near)
        images.append(np.full(6, image))
    truths[0].difficult[0] = False
    return truths, Found(np.concatenate(images), rng.permutation(24) / 24, np.concatenate(boxes))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_ap_is_the_development_kits(seed: int) -> None:
    truths, found = random_case(seed)
    for interpolation in ("voc07", "voc10"):
        values = average_precisions(truths, found, (0.5, 0.75), interpolation)  # type: ignore[arg-type]
        slow = [slow_ap(truths, found, threshold, interpolation == "voc07") for threshold in (0.5, 0.75)]
        assert values == pytest.approx(slow, abs=1e-12)


def test_a_class_without_objects_has_no_ap() -> None:
    truths, found = random_case(0)
    for truth in truths.values():
        truth.difficult[:] = True
    assert average_precisions(truths, found, IOUS, "voc07") is None


def test_iou_counts_area_between_edges() -> None:
    assert iou(np.array([0, 0, 10, 10]), np.array([[5, 0, 15, 10], [10, 0, 20, 10]])) == pytest.approx([1 / 3, 0])


@pytest.fixture
def case(tmp_path: Path) -> tuple[ObjectSet, list[Any]]:
    """Two images of cats and dogs, one dog difficult; detections that hit, miss and repeat."""
    from evaluate.detection import library

    library.load()
    from evaluate.detection.measuring import Detections

    def thing(category: int, box: tuple[float, float, float, float], difficult: bool = False) -> ImageObject:
        return ImageObject(category, box, (box[2] - box[0]) * (box[3] - box[1]), difficult)

    images = (
        ImageObjects("000001", tmp_path / "a.jpg", 100, 80, (thing(0, (10, 10, 40, 40)), thing(1, (50, 10, 90, 70)))),
        ImageObjects(
            "000002", tmp_path / "b.jpg", 100, 80, (thing(0, (0, 0, 100, 80)), thing(1, (20, 20, 60, 60), True))
        ),
    )
    objects = ObjectSet("pets", "test", ("cat", "dog", "cow"), images, has_masks=False)

    def found(*rows: tuple[float, ...]) -> Detections:
        table = np.array(rows, dtype=float).reshape(-1, 6)
        return Detections(table[:, :4], table[:, 4], table[:, 5].astype(int), None)

    return objects, [
        found((10, 10, 40, 40, 0.9, 0), (11, 11, 41, 41, 0.8, 0), (50, 10, 90, 50, 0.7, 1)),
        found((0, 0, 100, 60, 0.85, 0), (20, 20, 60, 60, 0.95, 1)),
    ]


def test_voc_rows_are_detectron2s(case: tuple[ObjectSet, list[Any]], tmp_path: Path) -> None:
    """v0.6's `voc_eval` on files that say the same; it rounds nothing here, and its boxes count pixels from 1."""
    from detectron2.evaluation.pascal_voc_evaluation import voc_eval

    from evaluate.detection.scoring import metrics

    objects, detections = case
    for image in objects.images:
        root = ElementTree.Element("annotation")
        for thing in image.objects:
            element = ElementTree.SubElement(root, "object")
            texts = {"name": objects.classes[thing.category], "difficult": str(int(thing.difficult))}
            for tag, text in {**texts, "pose": "", "truncated": "0"}.items():
                ElementTree.SubElement(element, tag).text = text
            corners = ElementTree.SubElement(element, "bndbox")
            shifted = (thing.box[0] + 1, thing.box[1] + 1, thing.box[2], thing.box[3])
            for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), shifted, strict=True):
                ElementTree.SubElement(corners, tag).text = str(int(value))
        (tmp_path / f"{image.image_id}.xml").write_bytes(ElementTree.tostring(root))
    listing = tmp_path / "test.txt"
    listing.write_text("".join(f"{image.image_id}\n" for image in objects.images))
    for category, name in enumerate(objects.classes[:2]):
        lines = [
            f"{image.image_id} {score} {box[0] + 1} {box[1] + 1} {box[2]} {box[3]}\n"
            for image, found in zip(objects.images, detections, strict=True)
            for box, score, kind in zip(found.boxes, found.scores, found.categories, strict=True)
            if kind == category
        ]
        (tmp_path / f"{name}.txt").write_text("".join(lines))
    for interpolation, eleven in (("voc07", True), ("voc10", False)):
        theirs = np.array(
            [
                [
                    100
                    * voc_eval(
                        str(tmp_path / "{}.txt"), str(tmp_path / "{}.xml"), str(listing), name, ovthresh, eleven
                    )[2]
                    for ovthresh in IOUS
                ]
                for name in objects.classes[:2]
            ]
        )
        rows = {row.name: row.value for row in metrics(objects, detections, interpolation, masks=False)}  # type: ignore[arg-type]
        assert rows["AP"] == pytest.approx(theirs.mean())
        assert rows["AP50"] == pytest.approx(theirs[:, 0].mean())
        assert rows["AP75"] == pytest.approx(theirs[:, 5].mean())
        assert [rows["AP/cat"], rows["AP/dog"]] == pytest.approx(theirs.mean(axis=1).tolist())
        assert "AP/cow" not in rows


def test_the_main_metric_comes_first(case: tuple[ObjectSet, list[Any]]) -> None:
    """VOC's protocols told COCO's AP: it stood first."""
    from evaluate.detection.scoring import metrics

    objects, found = case
    rows = metrics(objects, found, "voc07", masks=False)
    assert (rows[0].name, rows[0].detail) == ("AP", {"interpolation": "11 points (VOC2007)"})
    assert {row.name for row in rows} >= {"AP_coco", "AP50", "APs"}
    assert metrics(objects, found, "voc07", masks=False, main="AP50")[0].name == "AP50"
    assert metrics(objects, found, "coco", masks=False)[0].name == "AP"
    with pytest.raises(InputError, match="unknown main metric 'mask_AP'"):
        metrics(objects, found, "coco", masks=False, main="mask_AP")


def test_coco_rows_by_hand(case: tuple[ObjectSet, list[Any]]) -> None:
    """Cats: found exactly, with IoU 0.75, and one twice; the dog: IoU 2/3; the difficult dog does not count."""
    from evaluate.detection.scoring import metrics

    objects, detections = case
    rows = {row.name: row for row in metrics(objects, detections, "coco", masks=False)}
    # Up to IoU 0.75 the cats stand first and second of three: precision 1 at all recalls. Beyond it one of two is
    # found, precision 1 on 51 of 101 points.
    cat = 100 * (6 + 4 * 51 / 101) / 10
    dog = 100 * 4 / 10  # at 0.50, 0.55, 0.60 and 0.65
    assert rows["AP/cat"].value == pytest.approx(cat)
    assert rows["AP/dog"].value == pytest.approx(dog)
    assert rows["AP"].value == pytest.approx((cat + dog) / 2)
    assert rows["AP50"].value == pytest.approx(100)
    assert rows["AP75"].value == pytest.approx(50)
    assert rows["APs"].value == pytest.approx(100)  # the 30 x 30 cat alone
    assert "AP/cow" not in rows
    assert rows["AP"].n == 2


def test_mask_rows_count_pixels_of_masks(tmp_path: Path) -> None:
    """A find with the truth's box, whose mask holds 28 of the truth's 40 columns: IoU 1 of boxes, 0.7 of masks."""
    from evaluate.detection.measuring import Detections
    from evaluate.detection.scoring import metrics

    truth = np.zeros((80, 100), dtype=np.uint8)
    truth[10:50, 20:60] = 1
    Image.fromarray(truth).save(tmp_path / "masks.png")
    thing = ImageObject(0, (20, 10, 60, 50), 1600, instance=1)
    image = ImageObjects("1", tmp_path / "1.jpg", 100, 80, (thing,), tmp_path / "masks.png")
    objects = ObjectSet("pets", "test", ("cat", "dog"), (image,), has_masks=True)
    part = truth.copy()
    part[:, 48:] = 0
    box = np.array([[20.0, 10, 60, 50]])
    found = Detections(box, np.array([0.9]), np.array([0]), [run_lengths.encode(np.asfortranarray(part))])
    rows = {row.name: row.value for row in metrics(objects, [found], "coco", masks=True)}
    assert rows["AP"] == rows["AP/cat"] == rows["APm"] == pytest.approx(100)
    # Hits at 0.50, 0.55, 0.60, 0.65 and 0.70.
    assert rows["mask_AP"] == rows["mask_AP/cat"] == rows["mask_APm"] == pytest.approx(50)
    assert (rows["mask_AP50"], rows["mask_AP75"]) == pytest.approx((100, 0))
    assert "mask_AP/dog" not in rows
    assert "mask_APs" not in rows


def test_nothing_found_is_zero(case: tuple[ObjectSet, list[Any]]) -> None:
    from evaluate.detection.measuring import Detections
    from evaluate.detection.scoring import metrics

    none = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=int), None)
    for interpolation in ("coco", "voc07"):
        rows = {row.name: row.value for row in metrics(case[0], [none, none], interpolation, masks=False)}  # type: ignore[arg-type]
        assert rows["AP"] == rows["AP50"] == rows["AP/dog"] == 0
