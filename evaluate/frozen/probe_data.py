"""The features a probe trains and is measured on, from a job: one way for kNN, sweep, logreg and SVM."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from evaluate.frozen.features import Features, extract
from evaluate.frozen.representation import Sees
from evaluate.guards import check_weights_are_the_files
from evaluate.inputs import job_images, main_metric, test_input
from evaluate.protocols.images import ChoosingProtocol, FeatureProtocol
from evaluate.protocols.svm import SvmProtocol
from evaluate.task import Job
from pretrain.data.entries import TorchvisionEntry
from pretrain.data.gate.refusals import check_labels, check_same_classes
from pretrain.data.images import ImageSet
from pretrain.data.splits import carve, few
from pretrain.runtime.distributed import process_group
from pretrain.runtime.errors import InputError

log = logging.getLogger("fastmoco")


@dataclass(frozen=True)
class JobFeatures:
    """Features of a job's splits; `val` only where settings are to be chosen on it.

    Attributes:
        classes: their names, in the order of the labels.
        metric: the main one: "mAP", "top1" or "mean_per_class".
    """

    train: Features
    val: Features | None
    test: Features
    classes: tuple[str, ...]
    metric: str


def job_features(job: Job) -> JobFeatures | None:
    """Train and test features of a job (and of val, to choose on); on any number of ranks, which share the images out.

    The weights are compared with the file's first; see `evaluate.guards.check_weights_are_the_files`.

    Returns:
        None in the ranks that have only helped: what follows is the first one's work.

    Raises:
        InputError: what `job_images` and `extract` refuse, or `per_class` larger than the smallest class.
    """
    protocol = job.protocol
    assert isinstance(protocol, FeatureProtocol)
    check_weights_are_the_files(job.backbone)
    train, test = job_images(job)
    val = _val_images(job, train)
    if protocol.per_class is not None:
        train = few_shot(train, protocol.per_class, job.seed)
    own, module = job.backbone.metadata.normalization, job.backbone.module
    transform = test_input(protocol, train, own, module=module, test=test, told=job.told)
    with process_group(job.device, job.out) as ranks:

        def features(images: ImageSet) -> Features:
            return extract(
                job.backbone,
                images,
                transform,
                job.device,
                job.cache,
                sees=Sees(
                    protocol.layers,
                    protocol.patch_average,
                    protocol.tokens,
                    protocol.norm,
                    protocol.pool_px if isinstance(protocol, SvmProtocol) else None,
                ),
                ranks=ranks,
            )

        found = JobFeatures(
            features(train),
            None if val is None else features(val),
            features(test),
            train.classes,
            main_metric(job, train.multi_label),
        )
    return found if ranks.is_main else None


def _val_images(job: Job, train: ImageSet) -> ImageSet | None:
    """The official val split where the protocol chooses on it and the set has one that is not part of train."""
    protocol = job.protocol
    if not isinstance(protocol, ChoosingProtocol) or not protocol.use_val or protocol.per_class is not None:
        return None
    entry = job.catalog.entry(job.data)
    joined = isinstance(entry, TorchvisionEntry) and entry.join_val
    if joined or "val" not in entry.splits():
        why = "its train holds val (join_val)" if joined else "it has no val split"
        log.info("%s: %s: %g of train is held out", job.data, why, protocol.held_out)
        return None
    val = job.catalog.images(job.data, "val")
    check_labels(val)
    check_same_classes(train, val)
    return val


def few_shot(images: ImageSet, per_class: int, seed: int) -> ImageSet:
    """`per_class` images of every class, drawn from the seed."""
    if images.multi_label:
        raise InputError(f"{images.name} has several labels an image: per_class is for sets with one")
    counts = np.bincount(images.labels, minlength=len(images.classes))
    if counts.min() < per_class:
        scarce = images.classes[int(counts.argmin())]
        raise InputError(
            f"per_class is {per_class}, but class '{scarce}' of {images.name} has only {counts.min()} images"
        )
    chosen = images.subset(few(images.labels, per_class=per_class, seed=seed))
    check_labels(chosen)
    return chosen


def split_off(features: Features, fraction: float, seed: int) -> np.ndarray:
    """(N,) bool, True for a stratified part of the training images to choose settings on, drawn from the seed.

    Raises:
        InputError: so few images that one of the parts is empty.
    """
    rest, held_out = carve(features.labels, fraction, seed)
    if not len(rest):
        raise InputError(f"held_out {fraction} of {len(features)} training images leaves none to train on")
    mask = np.zeros(len(features), dtype=bool)
    mask[held_out] = True
    return mask
