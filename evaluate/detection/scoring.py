"""The rows that detections make: COCO's AP by pycocotools, VOC's where the protocol says so, with intervals."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from evaluate.detection.measuring import Detections
from evaluate.detection.precision import Found, Truth, average_precisions, matched
from evaluate.detection.samples import segmentation
from evaluate.detection.tallies import Tally, coco_tallies, contributions, resampled
from evaluate.metrics import interval
from evaluate.protocols.detector import DetectionProtocol, Interpolation
from pretrain.data.looked_at import read_instances
from pretrain.data.objects import ObjectSet
from pretrain.runtime.errors import unknown
from results.row import Metric

IOUS = tuple(0.5 + 0.05 * step for step in range(10))
_SAID = {"coco": "101 points (COCO)", "voc07": "11 points (VOC2007)", "voc10": "every point (VOC2010)"}
_SIZES = {"APs": 1, "APm": 2, "APl": 3}  # COCO's area ranges: up to 32^2, up to 96^2, beyond


def metrics(
    objects: ObjectSet, found: list[Detections], interpolation: Interpolation, *, masks: bool, main: str = "AP"
) -> list[Metric]:
    """Rows in percent, `main` first: AP, AP50, AP75, AP/CLASS by the protocol's interpolation; APs, APm, APl by COCO's.

    AP is the mean over IoU 0.50 to 0.95. Where the protocol's interpolation is VOC's, COCO's stands beside it as
    AP_coco, AP50_coco and AP75_coco. With masks the same of them as mask_AP, mask_AP50 ... A class or size without
    objects has no row.

    Raises:
        InputError: `main` is none of the rows, with those that are.
    """
    return measured(objects, found, interpolation, masks=masks, main=main).rows


@dataclass(frozen=True)
class Measured:
    """Rows, `main` first, and what each image adds to the main one.

    Attributes:
        rows: see `metrics`.
        shares: float64 (N,), whose mean is the main row's value over 100; None where the main row is a size's or a
            class's.
    """

    rows: list[Metric]
    shares: np.ndarray | None


def measured(
    objects: ObjectSet, found: list[Detections], interpolation: Interpolation, *, masks: bool, main: str = "AP"
) -> Measured:
    """As `metrics`, with intervals by a bootstrap over the images (`tallies`) and each image's share of `main`."""
    judged = [_judge_coco(objects, found, "bbox", "_coco" if interpolation != "coco" else "", "")]
    if interpolation != "coco":
        judged.insert(0, _judge_voc(objects, found, interpolation))
    if masks:
        judged.append(_judge_coco(objects, found, "segm", "", "mask_"))
    rows: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    shares = None
    for one in judged:
        rows |= {name: value for name, value in one.rows.items() if name not in rows}
        intervals |= one.intervals(len(objects))
        if main in one.names:
            level = one.names[main]
            levels = range(len(IOUS)) if level is None else [level]
            shares = rows[main] / 100 + contributions(one.tallies, len(objects), levels)
    if main not in rows:
        raise unknown("main metric", main, rows)
    said = {"interpolation": _SAID[interpolation]}
    by_coco = {"interpolation": _SAID["coco"]}

    def detail(name: str) -> dict[str, str]:
        return by_coco if name in _SIZES or name.endswith("_coco") or name.startswith("mask_") else said

    found_rows = [
        Metric(name=name, value=value, n=len(objects), ci95=intervals.get(name), detail=detail(name))
        for name, value in rows.items()
    ]
    return Measured(sorted(found_rows, key=lambda row: row.name != main), shares)


def main_metrics(protocol: DetectionProtocol) -> tuple[str, ...]:
    """The names that a protocol's `main` may have, but for those of classes and of sizes that a set may lack."""
    boxes = ["AP", "AP50", "AP75"]
    if protocol.interpolation != "coco":
        boxes += [f"{name}_coco" for name in boxes]
    return (*boxes, *(["mask_AP", "mask_AP50", "mask_AP75"] if protocol.masks else []))


@dataclass(frozen=True)
class _Judged:
    """The rows of one way to measure, and the tallies they are made of.

    Attributes:
        names: the rows that are means over classes -> place in `IOUS`, None for the mean over all of them.
        classes: names of the classes' rows of AP, in order.
    """

    rows: dict[str, float]
    tallies: list[Tally | None]
    interpolation: Interpolation
    names: dict[str, int | None]
    classes: list[str]

    def intervals(self, images: int) -> dict[str, tuple[float, float]]:
        if not self.rows or images < 2:
            return {}
        drawn = 100 * resampled(self.tallies, images, self.interpolation)
        return {**self._of_means(drawn), **self._of_classes(drawn)}

    def _of_means(self, drawn: np.ndarray) -> dict[str, tuple[float, float]]:
        some = ~np.isnan(drawn).all(axis=(1, 2))  # few images may leave a resample without any object
        means = {
            name: np.nanmean(
                drawn[some] if level is None else drawn[some][:, :, level], axis=(1, 2) if level is None else 1
            )
            for name, level in self.names.items()
        }
        return {name: interval(values) for name, values in means.items() if name in self.rows}

    def _of_classes(self, drawn: np.ndarray) -> dict[str, tuple[float, float]]:
        found = {}
        for number, name in enumerate(self.classes):
            values = drawn[:, number].mean(axis=1)
            if name in self.rows and not np.isnan(values).all():
                found[name] = interval(values[~np.isnan(values)])
        return found


def _judge_coco(
    objects: ObjectSet, found: list[Detections], kind: Literal["bbox", "segm"], suffix: str, prefix: str
) -> _Judged:
    truth = _truth(objects, kind)
    results = _results(found, kind)
    names: dict[str, int | None] = {f"AP{suffix}": None, f"AP50{suffix}": 0, f"AP75{suffix}": 5}
    classes = [] if suffix else [f"AP/{name}" for name in objects.classes]
    tallies: list[Tally | None] = []
    if not truth.anns:
        rows = {}
    elif not results:
        counted = {thing.category for image in objects.images for thing in image.objects if not thing.crowd}
        told = [*names, *(classes[category] for category in sorted(counted) if classes)]
        rows = dict.fromkeys(told, 0.0)
        tallies = [_unfound(objects, category) for category in range(len(objects.classes))]
    else:
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = _Evaluation(truth, truth.loadRes(results), kind)
            evaluation.evaluate()
            evaluation.accumulate()
        precision = evaluation.eval["precision"]  # IoU, recall, class, area range, detections an image
        parts = {
            f"AP{suffix}": precision[..., 0, -1],
            f"AP50{suffix}": precision[0, ..., 0, -1],
            f"AP75{suffix}": precision[5, ..., 0, -1],
            **{name: precision[..., area, -1] for name, area in _SIZES.items()},
            **{name: precision[:, :, number, 0, -1] for number, name in enumerate(classes)},
        }
        # -1 stands where there is nothing to find.
        rows = {name: 100 * float(part[part > -1].mean()) for name, part in parts.items() if (part > -1).any()}
        tallies = coco_tallies(evaluation, len(objects))
    return _Judged(
        {prefix + name: value for name, value in rows.items()},
        tallies,
        "coco",
        {prefix + name: level for name, level in names.items()},
        [prefix + name for name in classes],
    )


def _unfound(objects: ObjectSet, category: int) -> Tally | None:
    counts = np.array(
        [
            sum(one.category == category and not (one.crowd or one.difficult) for one in image.objects)
            for image in objects.images
        ],
        dtype=float,
    )
    nothing = np.zeros((len(IOUS), 0), dtype=bool)
    return Tally(np.zeros(0, dtype=int), nothing, nothing, counts) if counts.any() else None


def _judge_voc(objects: ObjectSet, found: list[Detections], interpolation: Literal["voc07", "voc10"]) -> _Judged:
    tables: dict[str, list[float]] = {}
    tallies: list[Tally | None] = []
    for category, name in enumerate(objects.classes):
        truths = {}
        for number, image in enumerate(objects.images):
            things = [thing for thing in image.objects if thing.category == category]
            boxes = np.array([thing.box for thing in things], dtype=float).reshape(-1, 4)
            truths[number] = Truth(boxes, np.array([thing.difficult or thing.crowd for thing in things], dtype=bool))
        picks = [detections.categories == category for detections in found]
        candidates = Found(
            np.concatenate([np.full(int(pick.sum()), number) for number, pick in enumerate(picks)]),
            np.concatenate([detections.scores[pick] for detections, pick in zip(found, picks, strict=True)]),
            np.concatenate([detections.boxes[pick] for detections, pick in zip(found, picks, strict=True)]),
        )
        result = average_precisions(truths, candidates, IOUS, interpolation)
        table = matched(truths, candidates, IOUS)
        if result is None or table is None:
            tallies.append(None)
            continue
        tables[name] = result
        objects_of = np.array([float((~truths[number].difficult).sum()) for number in range(len(found))])
        tallies.append(Tally(table[0].astype(int), table[1], table[2], objects_of))
    rows: dict[str, float] = {}
    if tables:
        table_of = 100 * np.array(list(tables.values()))
        rows = {"AP": table_of.mean(), "AP50": table_of[:, 0].mean(), "AP75": table_of[:, 5].mean()}
        rows |= {f"AP/{name}": row.mean() for name, row in zip(tables, table_of, strict=True)}
        rows |= {f"AP50/{name}": row[0] for name, row in zip(tables, table_of, strict=True)}
    return _Judged(
        {name: float(value) for name, value in rows.items()},
        tallies,
        interpolation,
        {"AP": None, "AP50": 0, "AP75": 5},
        [f"AP/{name}" for name in objects.classes],
    )


class _Evaluation(COCOeval):
    """COCO's evaluation that leaves VOC's difficult objects out, found or not."""

    def _prepare(self) -> None:
        super()._prepare()
        for things in self._gts.values():
            for thing in things:
                thing["ignore"] = thing["ignore"] or thing["difficult"]


def _truth(objects: ObjectSet, kind: str) -> COCO:
    annotations: list[dict[str, Any]] = []
    for number, image in enumerate(objects.images):
        instances = read_instances(image) if kind == "segm" and image.instances else None
        for thing in image.objects:
            x0, y0, x1, y1 = thing.box
            item = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": thing.category,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": thing.area,
                "iscrowd": int(thing.crowd),
                "difficult": int(thing.difficult),
            }
            if kind == "segm":
                mask = segmentation(image, thing, instances, polygons=False)
                if not mask:
                    continue
                item["segmentation"] = mask
                if thing.instance is not None:
                    item["area"] = float(run_lengths.area(mask))
            annotations.append(item)
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [
            {"id": number, "width": image.width, "height": image.height} for number, image in enumerate(objects.images)
        ],
        "categories": [{"id": number, "name": name} for number, name in enumerate(objects.classes)],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
    return truth


def _results(found: list[Detections], kind: str) -> list[dict[str, Any]]:
    results = []
    for number, detections in enumerate(found):
        for place, (x0, y0, x1, y1) in enumerate(detections.boxes.tolist()):
            item: dict[str, Any] = {
                "image_id": number,
                "category_id": int(detections.categories[place]),
                "score": float(detections.scores[place]),
            }
            if kind == "bbox":
                item["bbox"] = [x0, y0, x1 - x0, y1 - y0]
            else:
                assert detections.masks is not None
                item["segmentation"] = detections.masks[place]
            results.append(item)
    return results
