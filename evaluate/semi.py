"""Fine-tuning with a share of the labels, or a few of each class."""

from __future__ import annotations

import dataclasses
import logging
import lzma
import re
from importlib.resources import files

import numpy as np

from evaluate.inputs import job_images
from evaluate.protocols.semi import BETWEEN, PROTOCOLS, SemiProtocol
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
    chosen = labelled(train, protocol.percent, job.seed, per_class=protocol.per_class)
    share = protocol.percent if protocol.per_class is None else 100 * len(chosen) / len(train)
    if share not in LISTED:
        near = 1 if share < BETWEEN else 10
        log.info("%.3g %% of the labels: '%s' says 1 and 10 %%, those of %d %% are taken", share, protocol.name, near)
    preset = PROTOCOLS.get(protocol.name)
    tuned = dataclasses.replace(job, protocol=protocol.tuned(share))
    return tune(tuned, chosen, test, None if preset is None else preset.tuned(share))


def labelled(images: ImageSet, percent: float, seed: int, *, per_class: int | None = None) -> ImageSet:
    """The images whose labels may be used: by SimCLR's list for 1 and 10 % of ImageNet, else a stratified draw.

    A catalog entry that is one of the lists already (`train: imagenet:1percent`) is used as it is.

    Raises:
        InputError: an ImageNet that lacks images of the list, a share of what is a list already, or a class that has
            fewer than `per_class` images.
    """
    imagenet = len(images.classes) == 1000 and all(re.fullmatch(r"n\d{8}", name) for name in images.classes)
    is_list = next((share for share, count in LISTED.items() if len(images) == count), None) if imagenet else None
    if is_list is not None and per_class is None:
        if percent == is_list:
            return images
        raise InputError(
            f"percent is {percent}, but train of '{images.name}' is SimCLR's {is_list} % list already: a share is "
            "drawn from all images of train"
        )
    if per_class is not None or not imagenet or percent not in LISTED:
        if per_class is not None:
            chosen = images.subset(few(images.labels, per_class=per_class, seed=seed))
            log.info("%s: %d of %d images, %d of each class", images.name, len(chosen), len(images), per_class)
        else:
            chosen = images.subset(few(images.labels, fraction=percent / 100, seed=seed))
            log.info("%s: %d of %d images, %g %% of each class", images.name, len(chosen), len(images), percent)
        return chosen
    wanted = simclr_list(int(percent))
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
