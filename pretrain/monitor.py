"""Watching a pretraining by nearest neighbours on images of train whose labels it never sees.

A rough figure while a run is under way; `evaluate.knn` measures what is reported.
Shapes: N reference images, Q queries, D backbone width, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.backbones.handover import Normalization
from pretrain.backbones.registry import Backbone
from pretrain.data.images import ImageSet
from pretrain.data.splits import carve
from pretrain.runtime.errors import InputError
from pretrain.transforms import TestTransform
from pretrain.views.settings import ViewsSpec

NEIGHBOURS, TEMPERATURE = 20, 0.07  # DINO, eval_knn.py
AT_MOST = 5000  # reference images, so that a measurement stays a small part of an epoch
BATCH = 250


class OnlineKnn:
    """kNN accuracy of a backbone: a tenth of train asks, the rest (at most 5000 images) answers."""

    def __init__(self, images: ImageSet, views: ViewsSpec, device: torch.device, seed: int) -> None:
        if images.multi_label or len(images.classes) < 2:
            raise InputError(f"online_knn_every needs one label of two or more an image; '{images.name}' has none such")
        keep, asked = carve(images.labels, 0.1, seed)
        rng = np.random.default_rng(seed)
        self.reference = images.subset(np.sort(rng.permutation(keep)[:AT_MOST]))
        self.queries = images.subset(np.sort(rng.permutation(asked)[: AT_MOST // 5]))
        self.device = device
        self.transform = TestTransform(
            resize=views.size,
            crop=views.size,
            interpolation=views.interpolation,
            normalization=Normalization(mean=views.mean, std=views.std),
        )

    @torch.no_grad()
    def measure(self, backbone: Backbone) -> float:
        """Top-1 accuracy in percent. The backbone's mode and batch-norm statistics are left as they were."""
        training = backbone.training
        backbone.eval()
        try:
            bank, asked = (self._features(backbone, images) for images in (self.reference, self.queries))
        finally:
            backbone.train(training)
        labels = torch.from_numpy(self.reference.labels).to(self.device)
        similarity, neighbours = (asked @ bank.T).topk(min(NEIGHBOURS, len(bank)), dim=1)  # (Q, k)
        votes = torch.zeros(len(asked), len(self.reference.classes), device=self.device)
        votes.scatter_add_(1, labels[neighbours], (similarity / TEMPERATURE).exp())
        right = votes.argmax(1).cpu() == torch.from_numpy(self.queries.labels)
        return 100.0 * right.float().mean().item()

    def _features(self, backbone: Backbone, images: ImageSet) -> Tensor:
        parts = []
        for start in range(0, len(images), BATCH):
            batch = [self.transform(images.decode(i)) for i in range(start, min(start + BATCH, len(images)))]
            parts.append(F.normalize(backbone(torch.stack(batch).to(self.device)).float(), dim=1))
        return torch.cat(parts)
