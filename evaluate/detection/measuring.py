"""Detections of a test split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pycocotools import mask as run_lengths
from torch import nn

from evaluate.detection.samples import TestImages
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.progress import progress


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
