"""Training crops and test images for mmsegmentation's models, by its own transforms.

The training stream is endless: position p is image `order(epoch)[p % N]` of epoch p // N, and step t of a run takes
positions t * batch ... (t + 1) * batch - 1, split over the ranks in order. Every draw of a sample derives from
(seed, epoch, image), so that neither workers, ranks nor a resumption change it.

Shapes: B batch, C channels, H W size, N images.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from evaluate.protocols.segmentor import SegmentationProtocol
from evaluate.segmentation.geometry import Geometry
from pretrain.data.readers.masks import IGNORE, MaskSet

# Stream numbers below the run's seed, so that no two kinds of draws share one.
_ORDER, _DRAWS = 0, 1
_META = ("img_path", "ori_shape", "img_shape", "flip", "flip_direction")


def positions(seed: int, images: int, batch: int, step: int) -> list[tuple[int, int]]:
    """The (epoch, image) pairs of step `step`; the last batch of an epoch goes on into the next."""
    pairs = []
    order: np.ndarray | None = None
    for position in range(step * batch, (step + 1) * batch):
        epoch, place = divmod(position, images)
        if order is None or place == 0:
            order = np.random.default_rng([_ORDER, seed, epoch]).permutation(images)
        pairs.append((epoch, int(order[place])))
    return pairs


class TrainingCrops(Dataset):
    """(epoch, image) -> mmsegmentation's packed sample: `inputs` (3, H, W) uint8 BGR and `data_samples`."""

    def __init__(self, masks: MaskSet, protocol: SegmentationProtocol, geometry: Geometry, seed: int) -> None:
        from mmcv.transforms import Compose, RandomFlip
        from mmseg.datasets.transforms import PackSegInputs, PhotoMetricDistortion, RandomCrop

        self.masks, self.seed = masks, seed
        self.scale, self.scale_ratio, self.crop = geometry.scale, protocol.scale_ratio, geometry.crop
        steps: list[Any] = [RandomCrop(crop_size=(geometry.crop,) * 2, cat_max_ratio=protocol.cat_max_ratio)]
        if protocol.flip_p:
            steps.append(RandomFlip(prob=protocol.flip_p))
        if protocol.photometric:
            steps.append(PhotoMetricDistortion())
        self.after_resize = Compose([*steps, PackSegInputs(meta_keys=_META)])

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, at: tuple[int, int]) -> dict[str, Any]:
        from mmcv.transforms import RandomResize

        epoch, index = at
        sample = _loaded(self.masks, index, with_mask=True)
        height, width = sample["img_shape"]
        scale = self.scale or (max(height, width), min(height, width))
        resize = RandomResize(scale=scale, ratio_range=self.scale_ratio, keep_ratio=True)
        # mmsegmentation's transforms draw from numpy's global generator: it is lent to this sample and given back.
        before = np.random.get_state()
        np.random.seed(np.random.SeedSequence([_DRAWS, self.seed, epoch, index]).generate_state(8))
        try:
            return self.after_resize(resize(sample))
        finally:
            np.random.set_state(before)


class TestImages(Dataset):
    """Image number -> packed sample at the protocol's test size; the truth is read apart, at the image's own size."""

    __test__ = False  # the name is not a test's

    def __init__(self, masks: MaskSet, geometry: Geometry) -> None:
        from mmcv.transforms import Compose, Resize
        from mmseg.datasets.transforms import PackSegInputs

        self.masks = masks
        resize = [Resize(scale=geometry.test_scale, keep_ratio=True)] if geometry.test_scale else []
        self.transform = Compose([*resize, PackSegInputs(meta_keys=("img_path", "ori_shape", "img_shape"))])

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.transform(_loaded(self.masks, index, with_mask=False))


def training_batches(
    crops: TrainingCrops, batch: int, first_step: int, last_step: int, rank: int, world_size: int, device: torch.device
) -> Iterator[dict[str, list[Any]]]:
    """This rank's part of the batches of steps first_step ... last_step - 1, in mmsegmentation's collated form."""
    per_rank = batch // world_size
    keys = (
        positions(crops.seed, len(crops), batch, step)[rank * per_rank : (rank + 1) * per_rank]
        for step in range(first_step, last_step)
    )
    loader: DataLoader = DataLoader(crops, batch_sampler=keys, **_loading(device))
    return iter(loader)


def test_batches(images: TestImages, indices: list[int], device: torch.device) -> Iterator[dict[str, list[Any]]]:
    """The test images `indices`, one a batch, as their sizes differ."""
    loader: DataLoader = DataLoader(images, batch_sampler=[[index] for index in indices], **_loading(device))
    return iter(loader)


def _loading(device: torch.device) -> dict[str, Any]:
    # On a processor the model takes all of it, and workers would only take turns with it.
    workers = min(4, os.cpu_count() or 1) if device.type == "cuda" else 0
    # The generator is given so that making an iterator draws nothing from the global one.
    return {"num_workers": workers, "collate_fn": _collate, "generator": torch.Generator(), "worker_init_fn": _quiet}


def _collate(samples: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {key: [sample[key] for sample in samples] for key in samples[0]}


def _quiet(worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)


def _loaded(masks: MaskSet, index: int, *, with_mask: bool) -> dict[str, Any]:
    image = np.ascontiguousarray(masks.image(index)[..., ::-1])
    sample: dict[str, Any] = {
        "img": image,
        "img_shape": image.shape[:2],
        "ori_shape": image.shape[:2],
        "img_path": str(masks.pairs[index][0]),
        "seg_fields": [],
    }
    if with_mask:
        sample |= {"gt_seg_map": masks.mask(index), "seg_fields": ["gt_seg_map"]}
    return sample


assert IGNORE == 255, "mmsegmentation's RandomCrop leaves 255 out when it counts classes"
