"""Every number of every preset, against the table it comes from, both in the protocol and in detectron2's config."""

from __future__ import annotations

import math
from typing import Any

import pytest

from evaluate import task
from evaluate.protocols.detection import DEFAULT, PROTOCOLS
from evaluate.protocols.detector import DetectionProtocol
from pretrain.backbones.handover import BackboneMetadata, Normalization
from pretrain.runtime.errors import InputError

VOC_SIZES = tuple(range(480, 801, 32))
COCO_SIZES = tuple(range(640, 801, 32))
CITYSCAPES_SIZES = tuple(range(800, 1025, 32))
PYRAMID = [[32], [64], [128], [256], [512]]

# What the sources' files say, by detectron2's names. `None` stands for "the key does not apply".
C4 = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.BACKBONE.NAME": "build_resnet_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "naiveSyncBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.OUT_FEATURES": ["res4"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32, 64, 128, 256, 512]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.IN_FEATURES": ["res4"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 12000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 6000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.ROI_HEADS.NAME": "Res5ROIHeadsExtraNorm",
    "MODEL.ROI_HEADS.IN_FEATURES": ["res4"],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 0,
    "MODEL.MASK_ON": False,
}
FPN = {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.ANCHOR_GENERATOR.SIZES": PYRAMID,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "MODEL.MASK_ON": True,
}
RETINANET = {
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.NORM": "SyncBN",
    "MODEL.RETINANET.IOU_THRESHOLDS": [0.4, 0.5],
    "MODEL.RETINANET.IOU_LABELS": [0, -1, 1],
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
    "MODEL.MASK_ON": False,
}


def solver(
    max_iter: int, steps: tuple[int, ...], lr: float = 0.02, batch: int = 16, warmup: int = 1000
) -> dict[str, Any]:
    return {
        "SOLVER.MAX_ITER": max_iter,
        "SOLVER.STEPS": steps,
        "SOLVER.BASE_LR": lr,
        "SOLVER.IMS_PER_BATCH": batch,
        "SOLVER.WARMUP_ITERS": warmup,
        "SOLVER.WARMUP_FACTOR": 0.001,
        "SOLVER.GAMMA": 0.1,
        "SOLVER.MOMENTUM": 0.9,
        "SOLVER.WEIGHT_DECAY": 1e-4,
        "SOLVER.WEIGHT_DECAY_NORM": 0.0,
        "TEST.PRECISE_BN.ENABLED": True,
        "TEST.PRECISE_BN.NUM_ITER": 200,
        "TEST.DETECTIONS_PER_IMAGE": 100,
    }


def sizes(train: tuple[int, ...], longest: int = 1333, test: int = 800) -> dict[str, Any]:
    return {
        "INPUT.MIN_SIZE_TRAIN": train,
        "INPUT.MAX_SIZE_TRAIN": longest,
        "INPUT.MIN_SIZE_TEST": test,
        "INPUT.MAX_SIZE_TEST": longest,
        "INPUT.RANDOM_FLIP": "horizontal",
        "INPUT.FORMAT": "RGB",
    }


ONE_X, TWO_X = solver(90_000, (60_000, 80_000)), solver(180_000, (120_000, 160_000))
VOC = {**C4, **solver(24_000, (18_000, 22_000), warmup=100), **sizes(VOC_SIZES)}
TABLE: dict[str, dict[str, Any]] = {
    "voc0712_r50_c4_24k": {**VOC, "MODEL.RESNETS.DEPTH": 50},
    "voc0712_r34_c4_24k": {**VOC, "MODEL.RESNETS.DEPTH": 34},
    "voc0712_r18_c4_24k": {**VOC, "MODEL.RESNETS.DEPTH": 18},
    "coco_r50_c4_2x": {**C4, **TWO_X, **sizes(COCO_SIZES), "MODEL.MASK_ON": True, "MODEL.RESNETS.DEPTH": 50},
    "coco_r50_c4_1x": {**C4, **ONE_X, **sizes(COCO_SIZES), "MODEL.MASK_ON": True, "MODEL.RESNETS.DEPTH": 50},
    "coco_r34_c4_1x": {**C4, **ONE_X, **sizes(COCO_SIZES), "MODEL.MASK_ON": True, "MODEL.RESNETS.DEPTH": 34},
    "coco_r18_c4_1x": {**C4, **ONE_X, **sizes(COCO_SIZES), "MODEL.MASK_ON": True, "MODEL.RESNETS.DEPTH": 18},
    "coco_r50_fpn_1x": {**FPN, **ONE_X, **sizes(COCO_SIZES), "MODEL.RESNETS.DEPTH": 50},
    "coco_r34_fpn_1x": {**FPN, **ONE_X, **sizes(COCO_SIZES), "MODEL.RESNETS.DEPTH": 34},
    "coco_r18_fpn_1x": {**FPN, **ONE_X, **sizes(COCO_SIZES), "MODEL.RESNETS.DEPTH": 18},
    "coco_r50_fpn_2x": {**FPN, **TWO_X, **sizes(COCO_SIZES), "MODEL.RESNETS.DEPTH": 50},
    "cityscapes_r50_fpn_24k": {
        **FPN,
        **solver(24_000, (18_000,), lr=0.01, batch=8),
        **sizes(CITYSCAPES_SIZES, longest=2048, test=1024),
        "MODEL.RESNETS.DEPTH": 50,
    },
    "coco_r50_retinanet_1x": {
        **RETINANET,
        **solver(90_000, (60_000, 80_000), lr=0.01),
        **sizes(COCO_SIZES),
        "MODEL.RESNETS.DEPTH": 50,
    },
}


def config(protocol: DetectionProtocol, **metadata: Any) -> Any:
    from evaluate.detection import library

    library.load()
    from evaluate.detection.config import detectron2_config

    return detectron2_config(protocol, BackboneMetadata(backbone=protocol.backbone, method="test", **metadata), 7)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_config_is_the_sources(name: str) -> None:
    cfg = config(PROTOCOLS[name])
    found = {}
    for key in TABLE[name]:
        value = cfg
        for part in key.split("."):
            value = value[part]
        found[key] = value
    assert found == TABLE[name]


def test_every_preset_is_in_the_table() -> None:
    assert sorted(name for name in PROTOCOLS if not name.startswith("smoke")) == sorted(TABLE)
    assert DEFAULT == "voc0712_r50_c4_24k"


def test_retinanet_has_three_sizes_an_octave() -> None:
    anchors = PROTOCOLS["coco_r50_retinanet_1x"].anchor_sizes
    assert [sizes[0] for sizes in anchors] == [32, 64, 128, 256, 512]
    assert all(math.isclose(s[1] ** 3, 2 * s[0] ** 3) and math.isclose(s[2] ** 3, 4 * s[0] ** 3) for s in anchors)


def test_voc_counts_eleven_points_over_five_trials() -> None:
    voc = PROTOCOLS["voc0712_r50_c4_24k"]
    assert (voc.interpolation, voc.trials) == ("voc07", 5)
    assert {PROTOCOLS[name].interpolation for name in PROTOCOLS if name.startswith("coco")} == {"coco"}


def test_pixels_and_strides_are_the_checkpoints() -> None:
    caffe = Normalization(mean=(0.4, 0.5, 0.6), std=(0.1, 0.2, 0.3), channels="BGR")
    cfg = config(PROTOCOLS["voc0712_r50_c4_24k"], normalization=caffe, stride_in_1x1=True)
    assert cfg.INPUT.FORMAT == "BGR"
    assert pytest.approx([102, 127.5, 153]) == cfg.MODEL.PIXEL_MEAN
    assert pytest.approx([25.5, 51, 76.5]) == cfg.MODEL.PIXEL_STD
    assert cfg.MODEL.RESNETS.STRIDE_IN_1X1 is True
    assert cfg.MODEL.ROI_HEADS.NUM_CLASSES == 7
    imagenet = config(PROTOCOLS["voc0712_r50_c4_24k"])
    assert pytest.approx([123.675, 116.28, 103.53]) == imagenet.MODEL.PIXEL_MEAN
    assert pytest.approx([58.395, 57.12, 57.375]) == imagenet.MODEL.PIXEL_STD


def test_linear_rule_keeps_the_number_of_images() -> None:
    protocol = PROTOCOLS["voc0712_r50_c4_24k"].override({"global_batch_size": 4})
    schedule = protocol.schedule()
    assert schedule.lr == pytest.approx(0.005)
    assert (schedule.max_iter, schedule.steps, schedule.warmup_iters) == (96_000, (72_000, 88_000), 400)


def test_lr_is_detectron2s_at_each_iteration() -> None:
    import torch

    protocol = PROTOCOLS["voc0712_r50_c4_24k"].override({"max_iter": 60, "steps": [30, 50], "warmup_iters": 10})
    cfg = config(protocol)
    from detectron2.solver import build_lr_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=cfg.SOLVER.BASE_LR)
    scheduler = build_lr_scheduler(cfg, optimizer)
    theirs = []
    for _ in range(60):
        theirs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [protocol.schedule().lr_at(step) for step in range(60)] == pytest.approx(theirs)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": "[22000, 18000]"}, "steps must rise"),
        ({"max_iter": "20000"}, "end before max_iter 20000"),
        ({"head": "retinanet", "masks": "true"}, "no mask head"),
        ({"head": "fpn"}, "extra_norm is a layer of the c4 head"),
        ({"learning_rate": "1"}, "unknown field"),
    ],
)
def test_wrong_settings_are_told(changes: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        task.resolve_protocol("detection", None, changes)
