"""The task `segmentation`: mmsegmentation's models on our backbones, mIoU out."""

from __future__ import annotations

import logging

import numpy as np

from evaluate.metrics import save_shares
from evaluate.protocols.segmentation import PROTOCOLS
from evaluate.protocols.segmentor import SegmentationProtocol
from evaluate.segmentation import library, mmengine_files, models, tallies
from evaluate.segmentation.geometry import Geometry
from evaluate.segmentation.samples import TestImages, TrainingCrops
from evaluate.segmentation.training import Training
from evaluate.task import Job
from pretrain.data.gate.before import check_before
from pretrain.data.readers.masks import MaskStatistics, check_masks, demand_every_class
from pretrain.runtime.distributed import process_group
from pretrain.runtime.files import replacing
from pretrain.runtime.interrupt import stop_request
from results.row import Metric

log = logging.getLogger("fastmoco")


def run(job: Job) -> list[Metric]:
    """Train and measure; rows mIoU, mAcc, aAcc and IoU/CLASS, all in percent over the test split's pixels.

    In `job.out`: `confusion.npy` (K, K), `predictions/confusions.npz` (the same of each image),
    `pictures/predictions.png`, `segmentor.pth` as mmsegmentation loads it, curves, and `state/` to resume from.

    Raises:
        InputError: mmsegmentation is missing, data without class masks or with wrong ones, or a protocol that does not
            fit the backbone or the number of processes.
        RunFailedError, Interrupted: see `Training.run`.
    """
    protocol = job.protocol
    assert isinstance(protocol, SegmentationProtocol)
    library.load()
    train, test = (job.catalog.masks(job.data, split) for split in ("train", "test"))
    check_before(train, test)
    with process_group(job.device, job.out) as ranks, stop_request() as stop:
        found = check_masks(train, job.cache)
        demand_every_class(train, found)
        of_test = check_masks(test, job.cache)
        geometry = Geometry.of(protocol, found.median_short_side)
        _say(protocol, geometry, len(train), found, of_test)
        segmentor = models.build(job.backbone, protocol, geometry, len(train.classes), job.seed)
        training = Training(
            segmentor,
            protocol,
            TrainingCrops(train, protocol, geometry, job.seed),
            TestImages(test, geometry),
            identity={"seed": job.seed, "checkpoint": job.backbone.sha256, "images": train.identity},
            out=job.out,
            device=job.device,
            ranks=ranks,
            stop=stop,
        )
        confusions = training.run()
        if ranks.is_main:
            with replacing(job.out / "confusion.npy") as stream:
                np.save(stream, confusions.matrix())
            confusions.save(job.out / tallies.NAME)
            save_shares(job.out, tallies.shares(confusions, protocol.main))
            config = models.config_text(job.backbone, protocol, geometry, len(train.classes))
            mmengine_files.write(
                job.out / "segmentor.pth", segmentor, protocol.iterations, train.classes, train.palette, config
            )
    rows = tallies.metrics(confusions, train.classes, protocol.main)
    if protocol.evaluate_every:
        assert training.best is not None
        step, value = training.best
        rows.append(Metric(name="mIoU", value=value, selection="best", n=len(test), detail={"step": step}))
    return rows


def _say(
    protocol: SegmentationProtocol, geometry: Geometry, images: int, train: MaskStatistics, test: MaskStatistics
) -> None:
    if geometry.factor != 1:
        log.info(
            "small images (median short side %g px): lengths of %s times %.3g: crop %d, scale %s, slide stride %d",
            *(train.median_short_side, protocol.name, geometry.factor),
            *(geometry.crop, geometry.scale, geometry.slide_stride),
        )
    if protocol.budget < 1:
        log.info("a trial run with %g of the protocol's iterations: its numbers compare with nothing", protocol.budget)
    seen = protocol.iterations * protocol.global_batch_size
    log.info(
        "%d iterations of %d images: %d images seen, %.1f epochs",
        *(protocol.iterations, protocol.global_batch_size, seen, seen / images),
    )
    preset = PROTOCOLS.get(protocol.name)
    if preset is not None and seen != preset.iterations * preset.global_batch_size:
        log.info("the preset sees %d images", preset.iterations * preset.global_batch_size)
    if protocol.lr_rule != "fixed" and protocol.global_batch_size != protocol.reference_batch:
        log.info(
            "batch %d: lr %g by the rule '%s' from %g at batch %d",
            *(protocol.global_batch_size, protocol.lr(), protocol.lr_rule, protocol.base_lr, protocol.reference_batch),
        )
    log.info("always saying the test split's most frequent class would give mIoU %.2f %%", test.majority_miou)
