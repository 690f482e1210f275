"""The images of a task as the backbone will see them: splits, limits, the size rule, normalisation, loading.

Shapes: B batch, H W size, N samples.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from evaluate.protocols.images import ImageProtocol
from evaluate.task import Job
from pretrain.backbones.contract import Backbone
from pretrain.backbones.handover import IMAGENET_MEAN, IMAGENET_STD, Normalization
from pretrain.data.entries import TorchvisionEntry
from pretrain.data.gate.damaged import damaged
from pretrain.data.gate.refusals import check_files, check_labels, check_splits
from pretrain.data.images import ImageSet
from pretrain.data.splits import carve, few
from pretrain.data.torchvision_facts import facts
from pretrain.runtime.errors import InputError
from pretrain.transforms import TestTransform, test_transform

log = logging.getLogger("fastmoco")

# Not 0: a pretraining's `train_images` are drawn with 0, by the same shuffle, and would all lie in the tenth.
TENTH_SEED = 1
SWAV_STD = (0.228, 0.224, 0.225)  # swav eval_linear.py


def job_images(job: Job) -> tuple[ImageSet, ImageSet]:
    """The train and test images of a job, checked as `pretrain.data.gate.refusals` says.

    Raises:
        InputError: whatever of that does not hold, or a split that the set lacks.
    """
    protocol = job.protocol
    assert isinstance(protocol, ImageProtocol)
    train = job.catalog.images(job.data, "train")
    skip = protocol.damaged_train == "skip"
    if protocol.test_split == "tenth_of_train":
        check_labels(train)
        if not skip:
            check_files(train)
        kept, measured = carve(train.labels, 0.1, TENTH_SEED)
        train, test = train.subset(kept), train.subset(measured)
        if skip:
            check_files(test)
            train = _whole_images(job, train)
    else:
        test = test_images(job, protocol.test_split)
        if skip:
            train = _whole_images(job, train)
        check_splits(train, test)
    for images in (train, test):
        check_labels(images)
    return limited(train, protocol.train_limit, job.seed), limited(test, protocol.test_limit, job.seed)


def _whole_images(job: Job, train: ImageSet) -> ImageSet:
    """The training images that decode; how many do not becomes part of the row."""
    reasons = damaged(train)
    job.told["damaged_train"] = len(reasons)
    if not reasons:
        return train
    shown = "; ".join([reasons[row] for row in sorted(reasons)][:10])
    log.warning(
        "%s: %d of %d training images do not decode and are left out (damaged_train): %s%s",
        *(train.name, len(reasons), len(train), shown, "; ..." if len(reasons) > 10 else ""),
    )
    return train.subset(np.setdiff1d(np.arange(len(train)), list(reasons)))


def main_metric(job: Job, multi_label: bool) -> str:
    """What stands first in the results and what settings are chosen by: "mAP", "top1" or "mean_per_class"."""
    protocol = job.protocol
    assert isinstance(protocol, ImageProtocol)
    if multi_label:
        return "mAP"
    if protocol.metric != "auto":
        return protocol.metric
    entry = job.catalog.entry(job.data)
    return facts(entry.name).metric if isinstance(entry, TorchvisionEntry) else "top1"


def test_images(job: Job, split: str) -> ImageSet:
    """The split to measure on; "auto" prefers `test` to `val`."""
    if split != "auto":
        return job.catalog.images(job.data, split)
    try:
        return job.catalog.images(job.data, "test")
    except InputError as no_test:
        try:
            return job.catalog.images(job.data, "val")
        except InputError:
            raise no_test from None


def limited(images: ImageSet, limit: int | None, seed: int) -> ImageSet:
    """A stratified subset of about `limit` images, the same for the same seed; all of them when None."""
    if limit is None or limit >= len(images):
        return images
    if images.multi_label:
        rows = np.random.default_rng(seed).permutation(len(images))[:limit]
        return images.subset(np.sort(rows))
    return images.subset(few(images.labels, fraction=limit / len(images), seed=seed))


@dataclass(frozen=True)
class Sizes:
    """How large the images of a set are, in pixels, by the headers of all of them.

    Attributes:
        smallest_px, median_px, largest_px: of the longer sides.
        short_median_px: of the shorter sides.
        one_size: all images have the same width and height.
    """

    smallest_px: int
    median_px: int
    largest_px: int
    short_median_px: int
    one_size: bool

    def __str__(self) -> str:
        if self.one_size:
            return f"images of {self.short_median_px}x{self.largest_px} px"
        return f"images of {self.smallest_px} to {self.largest_px} px (longer side, median {self.median_px})"


def sizes(sets: Sequence[ImageSet]) -> Sizes:
    """The sizes of all images of the splits that `sets` are of, whatever part of them the sets are.

    Raises:
        InputError: no image has a header that can be read; the first is named.
    """
    found = np.concatenate([images.headers(whole_split=True)[:, :2] for images in sets])
    found = found[found.min(axis=1) > 0]
    if not len(found):
        sets[0].decode(0)  # says what is wrong with it
        raise InputError(f"{sets[0].name}: no image says how large it is")
    short, long = np.sort(found, axis=1).T
    return Sizes(
        int(long.min()), round(float(np.median(long))), int(long.max()), round(float(np.median(short))),
        bool((found == found[0]).all()),
    )  # fmt: skip


def test_input(
    protocol: ImageProtocol,
    images: ImageSet,
    normalization: Normalization,
    *,
    module: Backbone | None = None,  # noqa: PT028
    test: ImageSet | None = None,  # noqa: PT028
    told: dict[str, Any] | None = None,  # noqa: PT028
) -> TestTransform:
    """The test-time transform of a protocol for this set, by the size rule of `ImageProtocol`.

    Every image of the splits counts for the rule, not those alone that are used (`per_class`, `train_limit`), so that
    neither the first file nor the seed decides. What was seen and done is logged in one line.

    Args:
        protocol: its `native_up_to_px`, `resize`, `image_size`, `interpolation` and `normalization` are used.
        images: what is trained on, and `test` what is measured, where it is known.
        normalization: the checkpoint's.
        module: the backbone, for the sides it takes: a multiple of its patch, or one alone.
        told: filled in with what stands in the row.

    Raises:
        InputError: the images would be smaller than one patch of the backbone.
    """
    module = module or Backbone()
    seen = sizes([images] if test is None else [images, test])
    _warn_of_another_convention(protocol, normalization)
    chosen = normalization
    native = seen.median_px <= protocol.native_up_to_px
    resize, side = (None if seen.one_size else seen.short_median_px, seen.short_median_px) if native else (
        protocol.resize, protocol.image_size
    )  # fmt: skip
    wanted = side
    if side < module.smallest_px and module.native_px is None:
        raise InputError(
            f"{images.name}: images of {side} px are smaller than one patch of backbone '{module.name}': expected at "
            f"least {module.smallest_px} px (native_up_to_px=0 resizes small images to {protocol.image_size} px)"
        )
    if module.side_for(side) != side and (protocol.off_patch == "resize" or module.native_px):
        side = module.side_for(side)
        resize = round((resize or wanted) * side / wanted)
    transform = test_transform(resize, side, protocol.interpolation, chosen)
    if native and side == wanted:
        told_how = "used at their own size" if seen.one_size else f"brought to a shorter side of {side} px"
        log.info("%s: %s are %s (native_up_to_px)", images.name, seen, told_how)
    else:
        log.info("%s: %s are resized to %d and cropped to %d", images.name, seen, resize, side)
    if side != wanted:
        log.info("%s takes %d px where the protocol says %d", module.name, side, wanted)
    if told is not None:
        told["input"] = {
            **{key: value for key, value in asdict(seen).items() if key != "one_size"},
            "resize_px": transform.resize,
            "crop_px": transform.crop,
            "native": native,
            **({"wanted_px": wanted} if side != wanted else {}),
            **({"padded_to_px": module.side_for(side)} if module.side_for(side) != side else {}),
        }
    return transform


def _warn_of_another_convention(protocol: ImageProtocol, normalization: Normalization) -> None:
    if protocol.stated_normalization == "checkpoint":
        return
    mean, std = {
        "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
        "swav": (IMAGENET_MEAN, SWAV_STD),
        "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    }[protocol.stated_normalization]
    if (mean, std) != (tuple(normalization.mean), tuple(normalization.std)):
        log.warning(
            "the source of '%s' normalises its own weights' images with mean %s and std %s (%s); these weights' images "
            "are normalised with mean %s and std %s, as the checkpoint says (--normalization says otherwise)",
            protocol.name,
            mean,
            std,
            protocol.stated_normalization,
            tuple(normalization.mean),
            tuple(normalization.std),
        )


class _Inputs(Dataset):
    """(input (3, H, W), index) of each image; the index lets the receiver count every image exactly once."""

    def __init__(self, images: ImageSet, transform: TestTransform) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images.decode(index)), index


def batches(
    images: ImageSet, transform: TestTransform, *, batch_size: int, start: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs (B, 3, H, W) and indices (B,) of all images in order, from `start` on, the last batch included."""
    remaining = torch.utils.data.Subset(_Inputs(images, transform), range(start, len(images)))
    assert transform.crop is not None
    workers = worker_count(transform.crop, len(images) - start)
    yield from DataLoader(
        remaining, batch_size=batch_size, num_workers=workers, pin_memory=torch.cuda.is_available(), shuffle=False
    )


def worker_count(side_px: int, n: int) -> int:
    """How many loader processes pay off: none for small images or few of them, else the other cores, at most 8."""
    if side_px <= 64 or n < 512:
        return 0
    return min(8, len(os.sched_getaffinity(0)) - 1)
