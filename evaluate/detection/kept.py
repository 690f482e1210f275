"""Detections as a file that COCO's tools read too: a list of results, compressed, masks as run lengths."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from evaluate.detection.measuring import Detections
from pretrain.data.objects import ObjectSet
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_bytes

NAME = "predictions/detections.json.gz"


def save(path: Path, objects: ObjectSet, found: list[Detections]) -> None:
    """Write the detections with the ids of the set's own file: COCO's numbers; of VOC names, and classes from 1."""
    text = json.dumps(as_coco(objects, found), separators=(",", ":"))
    # No time in the header: the same detections are the same bytes.
    write_bytes(path, gzip.compress(text.encode(), mtime=0))


def as_coco(objects: ObjectSet, found: list[Detections]) -> list[dict[str, Any]]:
    """COCO's list of results: image_id, category_id, bbox [x, y, width, height], score, segmentation."""
    numbers = objects.category_ids or tuple(range(1, len(objects.classes) + 1))
    results = []
    for image, detections in zip(objects.images, found, strict=True):
        for place, (x0, y0, x1, y1) in enumerate(detections.boxes.tolist()):
            item: dict[str, Any] = {
                "image_id": int(image.image_id) if objects.integer_ids else image.image_id,
                "category_id": numbers[int(detections.categories[place])],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": float(detections.scores[place]),
            }
            if detections.masks is not None:
                mask = detections.masks[place]
                item["segmentation"] = {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")}
            results.append(item)
    return results


def load(path: Path, objects: ObjectSet) -> list[Detections]:
    """The detections of every image of `objects`, from what `save` wrote.

    Raises:
        InputError: no such file, not whole, or of another set.
    """
    try:
        results = json.loads(gzip.decompress(path.read_bytes()))
    except FileNotFoundError:
        raise InputError(f"no kept predictions at {path}") from None
    except (OSError, EOFError, ValueError) as error:
        raise InputError(f"{path} holds no detections: {error}") from None
    numbers = objects.category_ids or tuple(range(1, len(objects.classes) + 1))
    label_of = {number: label for label, number in enumerate(numbers)}
    by_image: dict[str, list[dict[str, Any]]] = {image.image_id: [] for image in objects.images}
    for item in results:
        image_id = str(item["image_id"])
        if image_id not in by_image or item["category_id"] not in label_of:
            raise InputError(
                f"{path} is of another set than '{objects.name}': image {image_id}, category {item['category_id']}"
            )
        by_image[image_id].append(item)
    with_masks = any("segmentation" in item for item in results)
    return [_detections(by_image[image.image_id], label_of, with_masks) for image in objects.images]


def _detections(items: list[dict[str, Any]], label_of: dict[int, int], with_masks: bool) -> Detections:
    boxes = np.array([item["bbox"] for item in items], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    masks = [
        {**item["segmentation"], "counts": item["segmentation"]["counts"].encode()} for item in items if with_masks
    ]
    return Detections(
        boxes,
        np.array([item["score"] for item in items], dtype=float),
        np.array([label_of[item["category_id"]] for item in items], dtype=int),
        masks if with_masks else None,
    )
