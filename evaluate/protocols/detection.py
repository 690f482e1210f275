"""The named protocols of detection and instance segmentation. Each number carries its source.

What no file of a preset's source sets is detectron2 v0.6's default, written out here (`detectron2/config/defaults.py`),
so that a later detectron2 with other defaults runs the same protocol.
"""

from __future__ import annotations

from evaluate.protocols.detector import DetectionProtocol

_MOCO = "facebookresearch/moco detection/configs"
_MMS = "open-mmlab/mmselfsup benchmarks/detection/configs"
_DEFAULTS = "detectron2 v0.6 config/defaults.py"
_COCO_SIZES = (640, 672, 704, 736, 768, 800)
_PYRAMID_ANCHORS = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))

VOC0712_R50_C4_24K = DetectionProtocol(
    name="voc0712_r50_c4_24k",
    source=f"{_MOCO}/pascal_voc_R_50_C4_24k_moco.yaml over Base-RCNN-C4-BN.yaml",
    sources={
        "interpolation": "detectron2 v0.6 PascalVOCDetectionEvaluator, which MoCo's train_net.py measures with: 11 "
        "points for VOC2007, and AP is their mean over IoU 0.5 to 0.95",
        "trials": "MoCo detection/README.md: mean of 5 trials",
        "anchor_sizes": _DEFAULTS,
        "rpn_topk_train": _DEFAULTS,
        "roi_batch": _DEFAULTS,
        "roi_resolution": _DEFAULTS,
        "precise_bn_iters": f"{_DEFAULTS} (MoCo turns it on)",
        "weight_decay": _DEFAULTS,
    },
    backbone="resnet50",
    head="c4",
    masks=False,
    extra_norm=True,
    norm="naiveSyncBN",
    max_iter=24_000,
    steps=(18_000, 22_000),
    warmup_iters=100,
    min_sizes_train=(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
    anchor_sizes=((32.0, 64.0, 128.0, 256.0, 512.0),),
    rpn_topk_train=(12_000, 2000),
    rpn_topk_test=(6000, 1000),
    roi_resolution=14,
    interpolation="voc07",
    trials=5,
)
COCO_R50_C4_2X = DetectionProtocol.model_validate(
    VOC0712_R50_C4_24K.model_dump()
    | {
        "name": "coco_r50_c4_2x",
        "source": f"{_MOCO}/coco_R_50_C4_2x_moco.yaml over Base-RCNN-C4-BN.yaml",
        "sources": {"warmup_iters": _DEFAULTS, "anchor_sizes": _DEFAULTS, "roi_resolution": _DEFAULTS},
        "masks": True,
        "max_iter": 180_000,
        "steps": (120_000, 160_000),
        "warmup_iters": 1000,
        "min_sizes_train": _COCO_SIZES,
        "interpolation": "coco",
        "trials": 1,
    }
)
COCO_R50_C4_1X = COCO_R50_C4_2X.model_copy(
    update={
        "name": "coco_r50_c4_1x",
        "source": f"{_MMS}/coco_R_50_C4_1x_moco.yaml (MoCo's own repository has the 2x schedule alone)",
        "max_iter": 90_000,
        "steps": (60_000, 80_000),
    }
)
COCO_R50_FPN_1X = DetectionProtocol(
    name="coco_r50_fpn_1x",
    source=f"{_MMS}/coco_R_50_FPN_1x_moco.yaml over Base-RCNN-FPN.yaml",
    sources={
        "warmup_iters": _DEFAULTS,
        "roi_batch": _DEFAULTS,
        "box_fc": _DEFAULTS,
        "precise_bn_iters": f"{_DEFAULTS} (the source turns it on)",
    },
    backbone="resnet50",
    head="fpn",
    masks=True,
    norm="SyncBN",
    fpn_norm="SyncBN",
    max_iter=90_000,
    steps=(60_000, 80_000),
    min_sizes_train=_COCO_SIZES,
    anchor_sizes=_PYRAMID_ANCHORS,
    rpn_topk_train=(2000, 1000),
    rpn_topk_test=(1000, 1000),
    roi_resolution=7,
)
COCO_R50_FPN_2X = COCO_R50_FPN_1X.model_copy(
    update={
        "name": "coco_r50_fpn_2x",
        "source": f"{_MMS}/coco_R_50_FPN_2x_moco.yaml over Base-RCNN-FPN.yaml",
        "max_iter": 180_000,
        "steps": (120_000, 160_000),
    }
)
CITYSCAPES_R50_FPN_24K = COCO_R50_FPN_1X.model_copy(
    update={
        "name": "cityscapes_r50_fpn_24k",
        "source": f"{_MMS}/Cityscapes/mask_rcnn_R_50_FPN_moco.yaml",
        "global_batch_size": 8,
        "reference_batch_size": 8,
        "base_lr": 0.01,
        "max_iter": 24_000,
        "steps": (18_000,),
        "min_sizes_train": (800, 832, 864, 896, 928, 960, 992, 1024),
        "max_size_train": 2048,
        "min_size_test": 1024,
        "max_size_test": 2048,
    }
)
COCO_R50_RETINANET_1X = COCO_R50_FPN_1X.model_copy(
    update={
        "name": "coco_r50_retinanet_1x",
        "source": f"{_MMS}/coco_R_50_RetinaNet_1x_moco.yaml over Base-RetinaNet.yaml",
        "head": "retinanet",
        "masks": False,
        "base_lr": 0.01,
        # Three sizes an octave for each map, as in the RetinaNet paper (section 4.1).
        "anchor_sizes": tuple((x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)) for (x,) in _PYRAMID_ANCHORS),
    }
)


def _small(protocol: DetectionProtocol, name: str, backbone: str) -> DetectionProtocol:
    # SEED (Fang et al. 2021, arXiv 2101.04731) transfers ResNet-18 and ResNet-34 to VOC and COCO with C4 detectors.
    source = f"this project, in the manner of SEED (arXiv 2101.04731): the numbers of {protocol.name} on {backbone}"
    return protocol.model_copy(update={"name": name, "source": source, "backbone": backbone})


_OURS = "this project: a CPU trains it on `scenes` in one or two minutes; no number compares with any paper"

SMOKE_RESNET20 = DetectionProtocol(
    name="smoke_resnet20",
    source=_OURS,
    backbone="cifar_resnet20",
    head="map",
    masks=False,
    norm="naiveSyncBN",
    global_batch_size=4,
    reference_batch_size=4,
    max_iter=150,
    steps=(120,),
    warmup_iters=10,
    min_sizes_train=(112, 128, 144),
    max_size_train=256,
    min_size_test=128,
    max_size_test=256,
    anchor_sizes=((16.0, 24.0, 32.0, 48.0),),
    rpn_topk_train=(400, 50),
    rpn_topk_test=(400, 30),
    rpn_batch=64,
    roi_batch=32,
    roi_resolution=7,
    mask_resolution=7,
    box_fc=256,
    precise_bn_iters=10,
    detections_per_image=20,
)
# For ten classes in 400 small images: one box for all classes, as each alone has too few to learn from.
SMOKE_SCENES = SMOKE_RESNET20.model_copy(
    update={
        "name": "smoke_scenes",
        "max_iter": 300,
        "steps": (240,),
        "min_sizes_train": (80, 96, 112),
        "min_size_test": 96,
        "anchor_sizes": ((12.0, 18.0, 24.0, 36.0),),
        "class_agnostic_boxes": True,
    }
)
SMOKE_R18_C4 = SMOKE_RESNET20.model_copy(
    update={
        "name": "smoke_r18_c4",
        "backbone": "resnet18",
        "head": "c4",
        "extra_norm": True,
        "rpn_topk_train": (200, 50),
        "rpn_topk_test": (200, 20),
        "roi_batch": 16,
        "roi_resolution": 6,
        "mask_resolution": 6,
    }
)
SMOKE_R18_FPN = SMOKE_RESNET20.model_copy(
    update={
        "name": "smoke_r18_fpn",
        "backbone": "resnet18",
        "head": "fpn",
        "masks": True,
        "fpn_norm": "naiveSyncBN",
        "anchor_sizes": ((8.0,), (16.0,), (32.0,), (64.0,), (128.0,)),
        "mask_resolution": 14,
    }
)

_ALL = (
    VOC0712_R50_C4_24K,
    COCO_R50_C4_1X,
    COCO_R50_C4_2X,
    COCO_R50_FPN_1X,
    COCO_R50_FPN_2X,
    CITYSCAPES_R50_FPN_24K,
    COCO_R50_RETINANET_1X,
    _small(VOC0712_R50_C4_24K, "voc0712_r18_c4_24k", "resnet18"),
    _small(VOC0712_R50_C4_24K, "voc0712_r34_c4_24k", "resnet34"),
    _small(COCO_R50_C4_1X, "coco_r18_c4_1x", "resnet18"),
    _small(COCO_R50_C4_1X, "coco_r34_c4_1x", "resnet34"),
    _small(COCO_R50_FPN_1X, "coco_r18_fpn_1x", "resnet18"),
    _small(COCO_R50_FPN_1X, "coco_r34_fpn_1x", "resnet34"),
    SMOKE_RESNET20,
    SMOKE_SCENES,
    SMOKE_R18_C4,
    SMOKE_R18_FPN,
)
PROTOCOLS: dict[str, DetectionProtocol] = {protocol.name: protocol for protocol in _ALL}
DEFAULT = VOC0712_R50_C4_24K.name
