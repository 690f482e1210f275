"""The task `detection`: detectron2's detectors on our backbones, AP out."""

from __future__ import annotations

import logging

import torch
from PIL import Image

from evaluate.detection import library
from evaluate.metrics import save_shares
from evaluate.protocols.detector import DetectionProtocol
from evaluate.task import Job
from pretrain.data.gate.before import check_before
from pretrain.data.looked_at import check_objects
from pretrain.data.objects import ObjectSet
from pretrain.runtime.curves import Curves
from pretrain.runtime.distributed import process_group
from pretrain.runtime.errors import InputError, unknown
from pretrain.runtime.files import replacing, write_text
from pretrain.runtime.interrupt import stop_request
from results.row import Metric

log = logging.getLogger("fastmoco")

PICTURES = 8


def run(job: Job) -> list[Metric]:
    """Train a detector on `train`, measure it on `test`; rows as `scoring.metrics` names them.

    In `job.out`: `detector.pth` and `detectron2.yaml` as detectron2 loads them, `pictures/detections.png`,
    `predictions/detections.json.gz` (COCO's list of results), curves, and
    `state/` to resume from.

    Raises:
        InputError: detectron2 is missing, data without boxes (or masks, where they are trained) or with wrong ones, or
            a protocol that does not fit the checkpoint or the number of processes.
        RunFailedError, Interrupted: see `Training.run`.
    """
    protocol = job.protocol
    assert isinstance(protocol, DetectionProtocol)
    library.load()
    # detectron2 may be absent, and its import takes seconds: only a run that needs it pays.
    from evaluate.detection import kept
    from evaluate.detection.config import check_backbone, detectron2_config
    from evaluate.detection.detector import build_detector
    from evaluate.detection.measuring import detect
    from evaluate.detection.pictures import chosen, sheet
    from evaluate.detection.samples import TestImages, TrainingImages, trainable
    from evaluate.detection.scoring import main_metrics, measured
    from evaluate.detection.training import Training

    check_backbone(protocol, job.backbone.metadata, job.backbone.ref)
    if protocol.main not in main_metrics(protocol):
        raise unknown("main metric of this protocol", protocol.main, main_metrics(protocol))
    train, test = _open(job, protocol)
    channels = job.backbone.metadata.normalization.channels
    _say(protocol, len(train))
    with process_group(job.device, job.out) as ranks, stop_request() as stop, library.quiet():
        cfg = detectron2_config(protocol, job.backbone.metadata, len(train.classes), str(job.device))
        detector = build_detector(cfg, job.backbone, job.seed)
        training = Training(
            detector,
            cfg,
            protocol,
            TrainingImages(trainable(train), protocol, channels, job.seed),
            identity={
                "seed": job.seed,
                "checkpoint": job.backbone.sha256,
                "images": train.identity(),
            },
            out=job.out,
            device=job.device,
            ranks=ranks,
            stop=stop,
        )
        training.run()
        found = detect(detector, TestImages(test, protocol, channels), ranks)
        judged = measured(test, found, protocol.interpolation, masks=protocol.masks, main=protocol.main)
        rows = judged.rows
        if ranks.is_main:
            kept.save(job.out / kept.NAME, test, found)
            if judged.shares is not None:
                save_shares(job.out, judged.shares)
            page = sheet(test, found, chosen(PICTURES, len(test)))
            with replacing(job.out / "pictures" / "detections.png") as stream:
                Image.fromarray(page).save(stream, format="PNG")
            step = protocol.schedule().max_iter
            with Curves(job.out, resume_step=step + 1) as curves:
                curves.add(step, {row.name: row.value for row in rows if "/" not in row.name})
                curves.image("detections", step, page)
            with replacing(job.out / "detector.pth") as stream:
                torch.save({"model": detector.state_dict()}, stream)
            write_text(job.out / "detectron2.yaml", cfg.dump())
    return rows


def _open(job: Job, protocol: DetectionProtocol) -> tuple[ObjectSet, ObjectSet]:
    """Both splits, with every image, box and mask that the run will read looked at."""
    train, test = (job.catalog.objects(job.data, split) for split in ("train", "test"))
    check_before(train, test)
    for objects in (train, test):
        if protocol.masks and not objects.has_masks:
            raise InputError(
                f"protocol '{protocol.name}' trains masks, but data set '{job.data}', split '{objects.split}', has "
                "objects without; choose another protocol or --set masks=false"
            )
    for objects in (train, test):
        check_objects(objects, job.cache, masks=protocol.masks)
    return train, test


def _say(protocol: DetectionProtocol, images: int) -> None:
    schedule = protocol.schedule()
    if protocol.budget < 1:
        log.info("a trial run with %g of the protocol's iterations: its numbers compare with nothing", protocol.budget)
    if schedule.global_batch_size != protocol.reference_batch_size:
        log.info(
            "batch %d instead of %d: lr %g instead of %g, %d iterations instead of %d (linear rule)",
            *(schedule.global_batch_size, protocol.reference_batch_size, schedule.lr, protocol.base_lr),
            *(schedule.max_iter, protocol.max_iter),
        )
    epochs = schedule.max_iter * schedule.global_batch_size / images
    log.info("%d iterations of %d images: %.1f epochs", schedule.max_iter, schedule.global_batch_size, epochs)
    if protocol.trials > 1:
        log.info("the source of '%s' averages %d trials: run as many seeds", protocol.name, protocol.trials)
