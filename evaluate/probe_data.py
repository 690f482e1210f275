"""The features a probe trains and is measured on, from a job: one way for kNN, sweep, logreg and SVM."""

from __future__ import annotations

import numpy as np

from evaluate.features import Features, extract
from evaluate.guards import check_labels, check_weights_are_the_files
from evaluate.inputs import job_images, test_input
from evaluate.protocols.images import FeatureProtocol
from evaluate.task import Job
from pretrain.data.images import ImageSet
from pretrain.data.splits import carve, few
from pretrain.data.transforms import TestTransform
from pretrain.errors import InputError


def job_features(job: Job) -> tuple[Features, Features, int]:
    """Train and test features of a job and the number of classes.

    The weights are compared with the file's first; see `evaluate.guards.check_weights_are_the_files`.

    Raises:
        InputError: what `job_images` and `extract` refuse, or `per_class` larger than the smallest class.
    """
    protocol = job.protocol
    assert isinstance(protocol, FeatureProtocol)
    check_weights_are_the_files(job.backbone)
    train, test = job_images(job)
    if protocol.per_class is not None:
        train = few_shot(train, protocol.per_class, job.seed)
    transform = test_input(protocol, train, job.backbone.metadata.normalization)

    return features_of(job, train, transform), features_of(job, test, transform), len(train.classes)


def features_of(job: Job, images: ImageSet, transform: TestTransform) -> Features:
    """The features of some images as the job's protocol sees them."""
    protocol = job.protocol
    assert isinstance(protocol, FeatureProtocol)
    return extract(
        job.backbone,
        images,
        transform,
        job.device,
        job.cache,
        layers=protocol.layers,
        patch_average=protocol.patch_average,
    )


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
    held_out = split_off_mask(features, fraction, seed)
    return features.subset(np.flatnonzero(~held_out)), features.subset(np.flatnonzero(held_out))


def split_off_mask(features: Features, fraction: float, seed: int) -> np.ndarray:
    """(N,) bool, True for the images that `split_off` holds out. Raises InputError as it does."""
    rest, held_out = carve(features.labels, fraction, seed)
    if not len(rest):
        raise InputError(f"held_out {fraction} of {len(features)} training images leaves none to train on")
    mask = np.zeros(len(features), dtype=bool)
    mask[held_out] = True
    return mask
