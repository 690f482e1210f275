"""Augmented training batches: the same for any number of workers and ranks, and from any step on.

Shapes: B images a rank and step, N training images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from evaluate.inputs import worker_count
from evaluate.protocols.training import TrainingProtocol
from pretrain.data.images import ImageSet
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import InputError
from pretrain.transforms import TestTransform, TrainTransform, train_transform


def check_batch(global_batch_size: int, n: int, world_size: int) -> None:
    """Raises InputError: a batch larger than the training set, or one that the ranks cannot share evenly."""
    if global_batch_size > n:
        raise InputError(
            f"global_batch_size is {global_batch_size}, but there are only {n} training images: expected at most {n} "
            f"(--set global_batch_size={n}; the lr follows by the protocol's rule)"
        )
    if global_batch_size % world_size:
        raise InputError(f"global_batch_size {global_batch_size} does not divide among {world_size} ranks")


def batches_an_epoch(n: int, global_batch_size: int, drop_last: bool) -> int:
    """How many batches `n` images make, with or without the last one that is not full."""
    return n // global_batch_size if drop_last else -(-n // global_batch_size)


def smallest_batch(n: int, global_batch_size: int, drop_last: bool, steps: int, world_size: int) -> int:
    """How many images a rank has in the smallest batch of a training of so many steps over `n` images."""
    rest = n % global_batch_size
    if not rest or drop_last or steps <= n // global_batch_size:
        return global_batch_size // world_size
    return -(-rest // world_size)


def probe_transform(protocol: TrainingProtocol, test: TestTransform, seed: int) -> TrainTransform:
    """The training transform of a protocol; its crop has the side of the test's, its normalisation is the test's."""
    assert test.crop is not None
    return train_transform(
        test.crop,
        protocol.crop_scale,
        protocol.flip_p,
        protocol.train_interpolation or protocol.interpolation,
        test.normalization,
        seed=seed,
    )


def rows_of_step(n: int, global_batch_size: int, seed: int, epoch: int, batch: int, ranks: Ranks) -> np.ndarray:
    """Which images this rank sees in one batch of an epoch.

    An epoch is a permutation from (seed, epoch); its last batch holds what is left, filled up to a multiple of the
    ranks from the permutation's start, as `torch.utils.data.DistributedSampler` does.
    """
    order = np.random.default_rng([seed, epoch]).permutation(n)
    rows = order[batch * global_batch_size : (batch + 1) * global_batch_size]
    rows = np.concatenate([rows, order[: -len(rows) % ranks.world_size]])
    share = len(rows) // ranks.world_size
    return rows[ranks.rank * share : (ranks.rank + 1) * share]


class _Augmented(Dataset):
    def __init__(self, images: ImageSet, transform: TrainTransform, epoch: int) -> None:
        self.images, self.transform, self.epoch = images, transform, epoch

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        # The draw belongs to (seed, epoch, index): which worker makes it does not matter.
        return self.transform(self.images.decode(index), self.epoch, index), int(self.images.labels[index])


def train_batches(
    images: ImageSet,
    transform: TrainTransform,
    *,
    global_batch_size: int,
    seed: int,
    steps: int,
    start: int,
    ranks: Ranks,
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs (B, 3, H, W) and labels (B,) of this rank for steps `start` to `steps`, epoch after epoch."""
    n = len(images)
    batches = batches_an_epoch(n, global_batch_size, drop_last)
    workers = worker_count(transform.spec.size, n)
    for epoch in range(start // batches, -(-steps // batches)):
        first = max(start - epoch * batches, 0)
        last = min(steps - epoch * batches, batches)
        rows = [rows_of_step(n, global_batch_size, seed, epoch, batch, ranks).tolist() for batch in range(first, last)]
        yield from DataLoader(
            _Augmented(images, transform, epoch),
            batch_sampler=rows,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
        )
