"""Fine-tuning with 1 % or 10 % of the labels."""

from __future__ import annotations

import dataclasses
import logging
import lzma
import re
from importlib.resources import files

import numpy as np

from evaluate.inputs import job_images
from evaluate.protocols.semi import PROTOCOLS, SemiProtocol
from evaluate.task import Job
from evaluate.trained.tuning import tune
from pretrain.data.images import ImageSet
from pretrain.data.splits import few
from pretrain.runtime.errors import InputError
from results.row import Metric

log = logging.getLogger("fastmoco")

LISTED = {1: 12_811, 10: 128_116}  # images in SimCLR's lists, and in an entry made of one


def run(job: Job) -> list[Metric]:
    """Accuracy after the last epoch (`last`) and after the best one (`best`); see `evaluate.trained.tuning.tune`."""
    protocol = job.protocol
    assert isinstance(protocol, SemiProtocol)
    train, test = job_images(job)
    if train.multi_label:
        raise InputError(f"'{job.data}' has several labels an image, expected one")
    preset = PROTOCOLS.get(protocol.name)
    tuned = dataclasses.replace(job, protocol=protocol.tuned())
    of_preset = None if preset is None else preset.model_copy(update={"percent": protocol.percent}).tuned()
    return tune(tuned, labelled(train, protocol.percent, job.seed), test, of_preset)


def labelled(images: ImageSet, percent: int, seed: int) -> ImageSet:
    """The images whose labels may be used: by SimCLR's list for ImageNet, else a stratified share.

    A catalog entry that is one of the lists already (`train: imagenet:1percent`) is used as it is.

    Raises:
        InputError: an ImageNet that lacks images of the list.
    """
    if len(images.classes) != 1000 or not all(re.fullmatch(r"n\d{8}", name) for name in images.classes):
        chosen = images.subset(few(images.labels, fraction=percent / 100, seed=seed))
        log.info("%s: %d of %d images, %d %% of each class", images.name, len(chosen), len(images), percent)
        return chosen
    if len(images) == LISTED[percent]:
        return images
    wanted = simclr_list(percent)
    # `where` ends in the file's name, whatever kind of set it is.
    names = {re.split(r"[/\\: ]", images.where(row))[-1]: row for row in range(len(images))}
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(
            f"{images.name} lacks {len(missing)} of the {len(wanted)} images of SimCLR's {percent} % list, for "
            f"instance {missing[0]}"
        )
    log.info("%s: the %d images of SimCLR's %d %% list", images.name, len(wanted), percent)
    return images.subset(np.array([names[name] for name in wanted]))


def simclr_list(percent: int) -> list[str]:
    """File names of SimCLR's subset (google-research/simclr imagenet_subsets), as shipped in this package."""
    packed = (files("pretrain.data") / f"imagenet_{percent}percent.txt.xz").read_bytes()
    return lzma.decompress(packed).decode().split()
