"""A protocol and what a checkpoint says of itself, as detectron2's config. Everything a protocol names is set here."""

from __future__ import annotations

from detectron2.config import CfgNode, get_cfg

from evaluate.detection.trunk import MAP
from evaluate.protocols.detector import DetectionProtocol
from pretrain.backbones.handover import BackboneMetadata
from pretrain.runtime.errors import InputError, unknown

# Backbone -> depth, groups, width per group. Others have no layout in detectron2's ResNet.
TRUNKS: dict[str, tuple[int, int, int]] = {
    "resnet18": (18, 1, 64),
    "resnet34": (34, 1, 64),
    "resnet50": (50, 1, 64),
    "resnet101": (101, 1, 64),
    "resnet152": (152, 1, 64),
    "resnext50_32x4d": (50, 32, 4),
    "resnext101_32x8d": (101, 32, 8),
    "wide_resnet50_2": (50, 1, 128),
    "wide_resnet101_2": (101, 1, 128),
}


def check_backbone(protocol: DetectionProtocol, metadata: BackboneMetadata, ref: str) -> None:
    """Raises InputError when the checkpoint's backbone is not the protocol's, or no detector can hold it."""
    if protocol.head != "map" and protocol.backbone not in TRUNKS:
        raise unknown(f"backbone for a {protocol.head} detector", protocol.backbone, TRUNKS)
    if metadata.backbone != protocol.backbone:
        raise InputError(
            f"{ref} holds a {metadata.backbone}, but protocol '{protocol.name}' trains a {protocol.backbone}; "
            f"choose a protocol of that backbone, or --set backbone={metadata.backbone} where it is one of "
            f"{', '.join(TRUNKS)}"
        )
    if metadata.padding != "symmetric":
        raise InputError(
            f"{ref} needs '{metadata.padding}' padding at stride 2, which detectron2's ResNet does not have"
        )


def detectron2_config(
    protocol: DetectionProtocol, metadata: BackboneMetadata, num_classes: int, device: str = "cpu"
) -> CfgNode:
    """The config of the protocol at its batch size, with the checkpoint's normalisation, channel order and strides."""
    cfg = get_cfg()
    _set_input(cfg, protocol, metadata)
    _set_trunk(cfg, protocol, metadata)
    _set_head(cfg, protocol, num_classes)
    schedule = protocol.schedule()
    solver = cfg.SOLVER
    solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER = schedule.global_batch_size, schedule.lr, schedule.max_iter
    solver.STEPS, solver.GAMMA = schedule.steps, schedule.gamma
    solver.WARMUP_ITERS, solver.WARMUP_FACTOR = schedule.warmup_iters, schedule.warmup_factor
    solver.MOMENTUM = protocol.momentum
    solver.WEIGHT_DECAY, solver.WEIGHT_DECAY_NORM = protocol.weight_decay, protocol.weight_decay_norm
    cfg.TEST.DETECTIONS_PER_IMAGE = protocol.detections_per_image
    cfg.TEST.PRECISE_BN.ENABLED = protocol.statistics_batches() > 0
    cfg.TEST.PRECISE_BN.NUM_ITER = max(1, protocol.statistics_batches())
    cfg.MODEL.DEVICE = device
    cfg.MODEL.WEIGHTS = ""
    cfg.freeze()
    return cfg


def _set_input(cfg: CfgNode, protocol: DetectionProtocol, metadata: BackboneMetadata) -> None:
    pixels = metadata.normalization
    cfg.INPUT.FORMAT = pixels.channels
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = protocol.min_sizes_train, protocol.max_size_train
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = protocol.min_size_test, protocol.max_size_test
    cfg.INPUT.RANDOM_FLIP = "horizontal" if protocol.flip else "none"
    cfg.MODEL.PIXEL_MEAN = [255 * value for value in pixels.mean]
    cfg.MODEL.PIXEL_STD = [255 * value for value in pixels.std]


def _set_trunk(cfg: CfgNode, protocol: DetectionProtocol, metadata: BackboneMetadata) -> None:
    resnets = cfg.MODEL.RESNETS
    if protocol.head == "map":
        cfg.MODEL.BACKBONE.NAME = "build_last_map_backbone"
        cfg.MODEL.TRUNK = CfgNode({"NAME": protocol.backbone})
        resnets.NORM = protocol.norm
        return
    resnets.DEPTH, resnets.NUM_GROUPS, resnets.WIDTH_PER_GROUP = TRUNKS[protocol.backbone]
    resnets.RES2_OUT_CHANNELS = 64 if resnets.DEPTH < 50 else 256
    resnets.STRIDE_IN_1X1 = metadata.stride_in_1x1
    resnets.NORM = protocol.norm
    resnets.OUT_FEATURES = {
        "c4": ["res4"],
        "fpn": ["res2", "res3", "res4", "res5"],
        "retinanet": ["res3", "res4", "res5"],
    }[protocol.head]
    cfg.MODEL.BACKBONE.FREEZE_AT = protocol.freeze_at
    cfg.MODEL.BACKBONE.NAME = {
        "c4": "build_resnet_backbone",
        "fpn": "build_resnet_fpn_backbone",
        "retinanet": "build_retinanet_resnet_fpn_backbone",
    }[protocol.head]
    if protocol.head != "c4":
        cfg.MODEL.FPN.IN_FEATURES = resnets.OUT_FEATURES
        cfg.MODEL.FPN.NORM = protocol.fpn_norm


def _set_head(cfg: CfgNode, protocol: DetectionProtocol, num_classes: int) -> None:
    model = cfg.MODEL
    model.ANCHOR_GENERATOR.SIZES = [list(sizes) for sizes in protocol.anchor_sizes]
    model.ANCHOR_GENERATOR.ASPECT_RATIOS = [list(protocol.anchor_ratios)]
    model.MASK_ON = protocol.masks
    model.ROI_HEADS.NUM_CLASSES = model.RETINANET.NUM_CLASSES = num_classes
    if protocol.head == "retinanet":
        model.META_ARCHITECTURE = "RetinaNet"
        model.RETINANET.SMOOTH_L1_LOSS_BETA = 0.0
        model.RETINANET.SCORE_THRESH_TEST = protocol.score_threshold
        model.RETINANET.NMS_THRESH_TEST = protocol.nms_threshold
        return
    model.META_ARCHITECTURE = "GeneralizedRCNN"
    model.RPN.PRE_NMS_TOPK_TRAIN, model.RPN.POST_NMS_TOPK_TRAIN = protocol.rpn_topk_train
    model.RPN.PRE_NMS_TOPK_TEST, model.RPN.POST_NMS_TOPK_TEST = protocol.rpn_topk_test
    model.RPN.BATCH_SIZE_PER_IMAGE = protocol.rpn_batch
    model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = protocol.roi_batch
    model.ROI_HEADS.SCORE_THRESH_TEST = protocol.score_threshold
    model.ROI_HEADS.NMS_THRESH_TEST = protocol.nms_threshold
    model.ROI_BOX_HEAD.POOLER_RESOLUTION = protocol.roi_resolution
    model.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG = protocol.class_agnostic_boxes
    model.ROI_MASK_HEAD.POOLER_RESOLUTION = protocol.mask_resolution
    if protocol.head == "c4":
        model.ROI_HEADS.NAME = "Res5ROIHeadsExtraNorm" if protocol.extra_norm else "Res5ROIHeadsOfTrunk"
        return
    levels = [MAP] if protocol.head == "map" else ["p2", "p3", "p4", "p5", "p6"]
    model.RPN.IN_FEATURES = levels
    model.ROI_HEADS.NAME = "StandardROIHeads"
    model.ROI_HEADS.IN_FEATURES = levels[:4]
    model.ROI_BOX_HEAD.NAME, model.ROI_BOX_HEAD.NUM_FC = "FastRCNNConvFCHead", 2
    model.ROI_BOX_HEAD.FC_DIM = protocol.box_fc
    model.ROI_MASK_HEAD.NUM_CONV = 4
