"""Detections of a test split, and the rows they make: COCO's AP by pycocotools, VOC's AP where the protocol says so."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from evaluate.detection.precision import Found, Truth, average_precisions
from evaluate.detection.samples import TestImages, segmentation
from evaluate.protocols.detector import DetectionProtocol, Interpolation
from pretrain.data.looked_at import read_instances
from pretrain.data.objects import ObjectSet
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import unknown
from pretrain.runtime.progress import progress
from results.row import Metric

IOUS = tuple(0.5 + 0.05 * step for step in range(10))
_SAID = {"coco": "101 points (COCO)", "voc07": "11 points (VOC2007)", "voc10": "every point (VOC2010)"}
_SIZES = {"APs": 1, "APm": 2, "APl": 3}  # COCO's area ranges: up to 32^2, up to 96^2, beyond


@dataclass(frozen=True)
class Detections:
    """What was found in one image, by falling score, in its own pixels.

    Attributes:
        boxes, scores, categories: (N, 4), (N,), (N,).
        masks: run lengths of each, as pycocotools has them; None without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    categories: np.ndarray
    masks: list[dict[str, Any]] | None


@torch.no_grad()
def detect(detector: nn.Module, images: TestImages, ranks: Ranks) -> list[Detections]:
    """Detections of every image, in order; each rank looks at its share and all get all. Leaves eval mode on."""
    detector.eval()
    own = range(ranks.rank, len(images), ranks.world_size)
    found: dict[int, Detections] = {}
    with progress("detect", len(own)) as bar:
        for index in own:
            found[index] = _as_arrays(detector([images[index]])[0]["instances"].to("cpu"))
            bar.advance()
    if ranks.world_size > 1:
        shares: list[dict[int, Detections]] = [{} for _ in range(ranks.world_size)]
        dist.all_gather_object(shares, found)
        found = {index: detections for share in shares for index, detections in share.items()}
    return [found[index] for index in range(len(images))]


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
    rows = _coco(objects, found, "bbox", "_coco" if interpolation != "coco" else "")
    if interpolation != "coco":
        rows = {**_voc(objects, found, interpolation), **rows}
    if masks:
        rows |= {f"mask_{name}": value for name, value in _coco(objects, found, "segm", "").items()}
    if main not in rows:
        raise unknown("main metric", main, rows)
    said = {"interpolation": _SAID[interpolation]}
    by_coco = {"interpolation": _SAID["coco"]}

    def detail(name: str) -> dict[str, str]:
        return by_coco if name in _SIZES or name.endswith("_coco") or name.startswith("mask_") else said

    found_rows = [Metric(name=name, value=value, n=len(objects), detail=detail(name)) for name, value in rows.items()]
    return sorted(found_rows, key=lambda row: row.name != main)


def main_metrics(protocol: DetectionProtocol) -> tuple[str, ...]:
    """The names that a protocol's `main` may have, but for those of classes and of sizes that a set may lack."""
    boxes = ["AP", "AP50", "AP75"]
    if protocol.interpolation != "coco":
        boxes += [f"{name}_coco" for name in boxes]
    return (*boxes, *(["mask_AP", "mask_AP50", "mask_AP75"] if protocol.masks else []))


def _coco(objects: ObjectSet, found: list[Detections], kind: Literal["bbox", "segm"], suffix: str) -> dict[str, float]:
    truth = _truth(objects, kind)
    results = _results(found, kind)
    if not truth.anns:
        return {}
    if not results:
        counted = {thing.category for image in objects.images for thing in image.objects if not thing.crowd}
        names = [f"AP{suffix}", f"AP50{suffix}", f"AP75{suffix}"]
        if not suffix:
            names += [f"AP/{objects.classes[category]}" for category in sorted(counted)]
        return dict.fromkeys(names, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = _Evaluation(truth, truth.loadRes(results), kind)
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # IoU, recall, class, area range, detections an image
    rows = {
        f"AP{suffix}": precision[..., 0, -1],
        f"AP50{suffix}": precision[0, ..., 0, -1],
        f"AP75{suffix}": precision[5, ..., 0, -1],
        **{name: precision[..., area, -1] for name, area in _SIZES.items()},
    }
    if not suffix:
        rows |= {f"AP/{name}": precision[:, :, number, 0, -1] for number, name in enumerate(objects.classes)}
    # -1 stands where there is nothing to find.
    return {name: 100 * float(part[part > -1].mean()) for name, part in rows.items() if (part > -1).any()}


def _voc(objects: ObjectSet, found: list[Detections], interpolation: Literal["voc07", "voc10"]) -> dict[str, float]:
    tables: dict[str, list[float]] = {}
    for category, name in enumerate(objects.classes):
        truths = {}
        for number, image in enumerate(objects.images):
            things = [thing for thing in image.objects if thing.category == category]
            boxes = np.array([thing.box for thing in things], dtype=float).reshape(-1, 4)
            truths[number] = Truth(boxes, np.array([thing.difficult or thing.crowd for thing in things], dtype=bool))
        picks = [detections.categories == category for detections in found]
        result = average_precisions(
            truths,
            Found(
                np.concatenate([np.full(int(pick.sum()), number) for number, pick in enumerate(picks)]),
                np.concatenate([detections.scores[pick] for detections, pick in zip(found, picks, strict=True)]),
                np.concatenate([detections.boxes[pick] for detections, pick in zip(found, picks, strict=True)]),
            ),
            IOUS,
            interpolation,
        )
        if result is not None:
            tables[name] = result
    if not tables:
        return {}
    table = 100 * np.array(list(tables.values()))
    rows = {"AP": table.mean(), "AP50": table[:, 0].mean(), "AP75": table[:, 5].mean()}
    rows |= {f"AP/{name}": row.mean() for name, row in zip(tables, table, strict=True)}
    rows |= {f"AP50/{name}": row[0] for name, row in zip(tables, table, strict=True)}
    return {name: float(value) for name, value in rows.items()}


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


def _as_arrays(instances: Any) -> Detections:
    order = torch.argsort(instances.scores, descending=True, stable=True)
    masks = None
    if instances.has("pred_masks"):
        masks = [
            run_lengths.encode(np.asfortranarray(mask.numpy().astype(np.uint8))) for mask in instances.pred_masks[order]
        ]
    return Detections(
        instances.pred_boxes.tensor[order].numpy().astype(float),
        instances.scores[order].numpy().astype(float),
        instances.pred_classes[order].numpy(),
        masks,
    )
