"""What a detector is, how it is trained and how it is measured, as settings. No torch, no detectron2.

Iterations, steps and lr are those of the reference batch; `DetectionProtocol.schedule` says what another batch gets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from evaluate.protocols.base import TaskProtocol, scaled_lr
from pretrain.runtime.settings import Later

Head = Literal["c4", "fpn", "retinanet", "map"]
Norm = Literal["naiveSyncBN", "SyncBN", "BN", "FrozenBN", ""]
# How precision is averaged over recall: COCO's 101 points, VOC2007's 11, or every point (VOC2010 and later).
Interpolation = Literal["coco", "voc07", "voc10"]


@dataclass(frozen=True)
class Schedule:
    """What the optimizer gets at a batch size: lr, and iterations counted in batches of that size."""

    global_batch_size: int
    lr: float
    max_iter: int
    steps: tuple[int, ...]
    warmup_iters: int
    warmup_factor: float
    gamma: float

    def lr_at(self, iteration: int) -> float:
        """lr of iteration 0, 1, ...: warm-up in a straight line from `warmup_factor`, then `gamma` at each step."""
        decay = self.gamma ** sum(iteration >= step for step in self.steps)
        warmup = 1.0
        if iteration < self.warmup_iters:
            alpha = iteration / self.warmup_iters
            warmup = self.warmup_factor * (1 - alpha) + alpha
        return self.lr * warmup * decay


class DetectionProtocol(TaskProtocol):
    """A detector, how it is trained, and how it is measured.

    Attributes:
        backbone: name of the backbone that the checkpoint must hold.
        head: "c4" (Faster/Mask R-CNN on res4, res5 in the head), "fpn" (the same on a feature pyramid), "retinanet", or
            "map" (Faster/Mask R-CNN with an FPN's head on the last map alone, for backbones detectron2 does not know).
        masks: train and measure instance masks too (Mask R-CNN).
        extra_norm: a norm layer after res5 in a C4 head (MoCo, appendix "Object detection").
        norm, fpn_norm: detectron2's name of the norm layer in backbone (and C4 head), and in the pyramid ("" = none).
        freeze_at: stages of the backbone that stay as they are; 0 trains all, stem included.
        global_batch_size, reference_batch_size: images an iteration, and the batch that the numbers below are for.
        base_lr, lr_rule, max_iter, steps, warmup_iters: at `reference_batch_size`, and how lr follows the batch.
        warmup_factor, gamma: lr at the first iteration as a share of lr; factor at each of `steps`.
        momentum, weight_decay, weight_decay_norm: of SGD; norm layers have a weight decay of their own.
        min_sizes_train: shorter edges in pixels, one drawn for each image; the longer edge is at most `max_size_train`.
        min_size_test, max_size_test: the same at test time, one size.
        flip: mirror half of the training images.
        anchor_sizes, anchor_ratios: edges in pixels, one list for all maps or one for each map; height by width.
        rpn_topk_train, rpn_topk_test: proposals (before, after) non-maximum suppression; before it, per map.
        rpn_batch, roi_batch: anchors, and proposals, of each image that the loss is taken over.
        roi_resolution, mask_resolution: cells along an edge of what a head takes from the map.
        box_fc: width of the two fully connected layers of a box head, "fpn" and "map" alone.
        class_agnostic_boxes: one box for a proposal, whatever its class, instead of one for each class.
        score_threshold, nms_threshold, detections_per_image: what is kept at test time.
        precise_bn_iters: batches over which the norm statistics are computed anew after training; 0 leaves them.
        interpolation: which averaging AP, AP50 and AP75 stand for; the other one is stored under its own name.
        main: name of the row that stands for the run wherever one number does: "AP", "AP50", "mask_AP" ...
        budget: part of the iterations that a trial run takes; steps, warm-up and the batches of the norm statistics
            shrink with it. A number measured so compares with nothing.
        trials: how many seeds the source averages.
    """

    backbone: str
    head: Head
    masks: bool
    extra_norm: bool = False
    norm: Norm
    fpn_norm: Norm = ""
    freeze_at: Annotated[int, Field(ge=0, le=5)] = 0
    global_batch_size: PositiveInt = 16
    reference_batch_size: PositiveInt = 16
    lr_rule: Literal["linear"] = "linear"
    base_lr: PositiveFloat = 0.02
    max_iter: PositiveInt
    steps: tuple[PositiveInt, ...]
    warmup_iters: Annotated[int, Field(ge=0)] = 1000
    warmup_factor: Annotated[float, Field(gt=0, le=1)] = 0.001
    gamma: PositiveFloat = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    weight_decay_norm: Annotated[float, Field(ge=0)] = 0.0
    min_sizes_train: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    max_size_train: PositiveInt = 1333
    min_size_test: PositiveInt = 800
    max_size_test: PositiveInt = 1333
    flip: bool = True
    anchor_sizes: Annotated[tuple[tuple[PositiveFloat, ...], ...], Field(min_length=1)]
    anchor_ratios: tuple[PositiveFloat, ...] = (0.5, 1.0, 2.0)
    rpn_topk_train: tuple[PositiveInt, PositiveInt]
    rpn_topk_test: tuple[PositiveInt, PositiveInt]
    rpn_batch: PositiveInt = 256
    roi_batch: PositiveInt = 512
    roi_resolution: PositiveInt
    mask_resolution: PositiveInt = 14
    box_fc: PositiveInt = 1024
    class_agnostic_boxes: bool = False
    score_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.05
    nms_threshold: Annotated[float, Field(gt=0, le=1)] = 0.5
    detections_per_image: PositiveInt = 100
    precise_bn_iters: Annotated[int, Field(ge=0)] = 200
    interpolation: Interpolation = "coco"
    main: Annotated[str, Later(before="AP")] = "AP"
    budget: Annotated[float, Field(gt=0, le=1), Later(before=1.0)] = 1.0
    trials: PositiveInt = 1

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if list(self.steps) != sorted(set(self.steps)) or (self.steps and self.steps[-1] >= self.max_iter):
            raise ValueError(f"steps must rise and end before max_iter {self.max_iter}, not {list(self.steps)}")
        if self.masks and self.head == "retinanet":
            raise ValueError("a retinanet has no mask head; set masks to false")
        if self.head == "map" and self.freeze_at:
            raise ValueError("freeze_at counts the stages of detectron2's ResNet, which head 'map' does not use")
        if self.extra_norm and self.head != "c4":
            raise ValueError(f"extra_norm is a layer of the c4 head; head is '{self.head}'")
        return self

    def schedule(self) -> Schedule:
        """At k times the reference batch: lr times k, iterations over k (Goyal et al. 2017, section 2.1).

        A budget shortens the iterations further and leaves the lr as it is.
        """
        k = self.global_batch_size / self.reference_batch_size / self.budget
        return Schedule(
            self.global_batch_size,
            scaled_lr(self.base_lr, self.lr_rule, self.reference_batch_size, self.global_batch_size),
            max(1, round(self.max_iter / k)),
            tuple(round(step / k) for step in self.steps),
            round(self.warmup_iters / k),
            self.warmup_factor,
            self.gamma,
        )

    def statistics_batches(self) -> int:
        """Batches that the norm statistics are taken over after training; 0 leaves them."""
        return max(1, round(self.precise_bn_iters * self.budget)) if self.precise_bn_iters else 0
