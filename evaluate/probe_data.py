"""The features a probe trains and is measured on, from a job: one way for kNN, sweep, logreg and SVM."""

from __future__ import annotations

import numpy as np

from evaluate.features import Features, extract
from evaluate.guards import check_labels
from evaluate.inputs import job_images, test_input
from evaluate.protocols.images import FeatureProtocol
from evaluate.task import Job
from pretrain.data.images import ImageSet
from pretrain.data.splits import carve, few
from pretrain.errors import InputError


def job_features(job: Job) -> tuple[Features, Features, int]:
    """Train and test features of a job and the number of classes.

    Raises:
        InputError: what `job_images` and `extract` refuse, or `per_class` larger than the smallest class.
    """
    protocol = job.protocol
    assert isinstance(protocol, FeatureProtocol)
    train, test = job_images(job)
    if protocol.per_class is not None:
        train = few_shot(train, protocol.per_class, job.seed)
    transform = test_input(protocol, train, job.backbone.metadata.normalization)

    def features(images: ImageSet) -> Features:
        return extract(
            job.backbone,
            images,
            transform,
            job.device,
            job.cache,
            layers=protocol.layers,
            patch_average=protocol.patch_average,
        )

    return features(train), features(test), len(train.classes)


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


def split_off(features: Features, fraction: float, seed: int) -> tuple[Features, Features]:
    """(rest, held out): a stratified part of the training features to choose settings on, drawn from the seed.

    Raises:
        InputError: so few images that one of the parts is empty.
    """
    rest, held_out = carve(features.labels, fraction, seed)
    if not len(rest) or not len(held_out):
        raise InputError(
            f"held_out {fraction} of {len(features)} training images leaves {len(rest)} to train on and "
            f"{len(held_out)} to choose on; both must be at least 1"
        )
    return features.subset(rest), features.subset(held_out)
