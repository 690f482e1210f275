"""The stream of training crops: which image when, and that every draw derives from (seed, epoch, image)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluate.protocols.segmentation import PROTOCOLS
from evaluate.segmentation import library
from evaluate.segmentation.geometry import Geometry
from evaluate.segmentation.samples import TestImages, TrainingCrops, positions, training_batches
from pretrain.data.catalog import Catalog

CPU = torch.device("cpu")
PROTOCOL = PROTOCOLS["voc12aug_fcn_20k"].override({"scale": [64, 48], "crop": 40, "test_scale": [96, 72]})


def crops(tiny: Path, seed: int = 0, **changes: Any) -> TrainingCrops:
    library.load()
    masks = Catalog.load(tiny).masks("tiny", "train")
    protocol = PROTOCOL.override(changes)
    return TrainingCrops(masks, protocol, Geometry.of(protocol, 48), seed)


def test_each_epoch_shows_each_image_once_across_batch_borders():
    stream = [pair for step in range(24) for pair in positions(seed=3, images=12, batch=5, step=step)]
    assert Counter(stream[:108]) == Counter((epoch, index) for epoch in range(9) for index in range(12))
    orders = [[index for e, index in stream[:108] if e == epoch] for epoch in range(9)]
    assert len({tuple(order) for order in orders}) == 9
    assert stream[:5] == positions(3, 12, 5, 0) != positions(4, 12, 5, 0)


def test_a_sample_is_the_same_whoever_asks_for_it_and_when(tiny: Path):
    first, second = crops(tiny), crops(tiny)
    np.random.seed(1)
    expected = [np.random.random() for _ in range(2)]
    np.random.seed(1)
    assert np.random.random() == expected[0]
    one = first[(0, 3)]
    assert np.random.random() == expected[1]  # the global generator is where it was
    for other in ((0, 2), (5, 1)):
        second[other]
    again = second[(0, 3)]
    assert torch.equal(one["inputs"], again["inputs"])
    assert torch.equal(one["data_samples"].gt_sem_seg.data, again["data_samples"].gt_sem_seg.data)
    for changed in (first[(1, 3)], crops(tiny, seed=1)[(0, 3)]):
        assert one["inputs"].shape != changed["inputs"].shape or not torch.equal(one["inputs"], changed["inputs"])


def test_ranks_and_a_later_start_take_their_parts_of_the_same_stream(tiny: Path):
    data = crops(tiny)
    whole = [[id_(s) for s in batch["inputs"]] for batch in training_batches(data, 4, 0, 5, 0, 1, CPU)]
    halves = [[[id_(s) for s in b["inputs"]] for b in training_batches(data, 4, 0, 5, rank, 2, CPU)] for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole
    later = [[id_(s) for s in batch["inputs"]] for batch in training_batches(data, 4, 3, 5, 0, 1, CPU)]
    assert later == whole[3:]


def id_(inputs: torch.Tensor) -> bytes:
    return inputs.numpy().tobytes()


def test_scale_crop_and_flip_do_what_the_protocol_says(tiny: Path):
    plain = crops(tiny, scale_ratio=[1.0, 1.0], cat_max_ratio=1.0, flip_p=0.0, photometric=False, crop=64)
    sample, masks = plain[(0, 2)], plain.masks
    assert np.array_equal(sample["inputs"].numpy(), masks.image(2)[..., ::-1].transpose(2, 0, 1))  # BGR
    assert np.array_equal(sample["data_samples"].gt_sem_seg.data[0].numpy(), masks.mask(2))
    flipped = crops(tiny, scale_ratio=[1.0, 1.0], cat_max_ratio=1.0, flip_p=1.0, photometric=False, crop=64)[(0, 2)]
    assert torch.equal(flipped["inputs"], sample["inputs"].flip(2))
    assert torch.equal(flipped["data_samples"].gt_sem_seg.data, sample["data_samples"].gt_sem_seg.data.flip(2))
    sizes = [tuple(crops(tiny)[(0, i)]["inputs"].shape[1:]) for i in range(12)]
    assert max(max(size) for size in sizes) == 40
    assert min(min(size) for size in sizes) < 40  # half-size images are smaller than the crop and padded later
    native = crops(tiny, scale=None, scale_ratio=[2.0, 2.0], crop=256, shrink=False)[(0, 0)]
    assert native["inputs"].shape[1:] == (96, 128)


def test_test_images_come_whole_at_the_test_scale(tiny: Path):
    library.load()
    masks = Catalog.load(tiny).masks("tiny", "test")
    sample = TestImages(masks, Geometry.of(PROTOCOL, 48))[1]
    assert sample["inputs"].shape == (3, 72, 96)
    assert sample["data_samples"].ori_shape == (48, 64)
    own = PROTOCOL.override({"test_scale": None})
    assert TestImages(masks, Geometry.of(own, 48))[1]["inputs"].shape == (3, 48, 64)
