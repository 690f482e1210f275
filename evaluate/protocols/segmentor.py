"""What a segmentor is, how it is trained and how it is measured, as settings. No torch, no mmsegmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from evaluate.protocols.base import LrRule, TaskProtocol, scaled_lr
from pretrain.runtime.settings import Later


class SegmentationProtocol(TaskProtocol):
    """Train a segmentation head, and the trunk below it unless it is frozen, then measure IoU on the test split.

    Lengths are in pixels and hold for images of the size the protocol was written for. For small images they shrink by
    one rule (`evaluate.segmentation.geometry`), unless `shrink` is off.

    Attributes:
        head: "fcn", "deeplabv3plus", "upernet", or "linear": batch norm and a 1x1 convolution on the last map.
        head_channels: width of the head on a Bottleneck trunk. Heads other than UPerNet get a quarter of it on a trunk
            of width 512 or less, as mmsegmentation's r18 configs have it; `aux_channels` likewise.
        head_convs, head_dilation, head_concat: 3x3 convolutions of the FCN head, their dilation, and whether their
            output is joined to their input before one more convolution.
        aux_weight: weight of the loss of a one-convolution FCN head on the last map but one; 0 means no such head.
        aux_channels: width of that head.
        dropout: channel dropout before the classifying 1x1 convolution.
        strides, dilations: of the trunk's four stages. The first block of a stage with dilation d has d / 2, as in
            torchvision and in mmsegmentation's `contract_dilation`.
        trunk: "finetune" trains it; "frozen" keeps weights and batch norm statistics, which is checked to the bit.
        scale: (long, short) side that an image is scaled to, with its proportions kept, before the ratio is drawn;
            None starts from the image's own size.
        scale_ratio: range of the random ratio.
        crop: side of the training crop.
        cat_max_ratio: a crop of which one class fills more than this is drawn again, up to ten times; 1 turns it off.
        flip_p, photometric: horizontal flip; mmsegmentation's PhotoMetricDistortion.
        test_mode: "whole" image, or "slide" a window of side `crop` by `slide_stride` and average the logits.
        test_scale: (long, short) side at test time, None for the image's own size. Logits are brought to its own
            size before classes are read off, so IoU is always over the original pixels.
        align_corners: of every bilinear resizing of maps and logits.
        shrink: shrink lengths for small images.
        iterations: steps of the optimizer.
        global_batch_size: images a step, over all ranks. When it is changed, iterations, warm-up and `evaluate_every`
            follow, so that as many images are seen; what is given beside it is taken as it is given.
        optimizer, base_lr, lr_rule, reference_batch, momentum, betas, weight_decay: `base_lr` is at `reference_batch`.
        schedule: "poly": (1 - t / T) ** poly_power from lr down to min_lr, as in mmcv 1.x, for which the sources were
            written (mmengine's PolyLR ends a step early); "step": times step_factor at each of
            `step_at`, parts of the whole.
        warmup_iterations: linear from `warmup_ratio` * lr.
        clip_norm: largest norm of the gradient; 0 leaves it alone.
        main: name of the row that stands for the run wherever one number does.
        budget: part of the preset's iterations that a trial run takes. When it is changed, iterations, warm-up and
            `evaluate_every` follow; a number measured so compares with nothing.
        evaluate_every: iterations between measurements on the test split; 0 measures at the end alone. The final row
            is the last measurement, `best` the best of them.
        save_every: iterations between saved states.
        log_every: iterations between points of the curves.
        pictures: how many test images the sheet shows.
    """

    head: Literal["fcn", "deeplabv3plus", "upernet", "linear"]
    head_channels: int = Field(default=512, ge=1)
    head_convs: int = Field(default=2, ge=0)
    head_dilation: int = Field(default=1, ge=1)
    head_concat: bool = True
    aux_weight: float = Field(default=0.4, ge=0)
    aux_channels: int = Field(default=256, ge=1)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    strides: tuple[int, int, int, int] = (1, 2, 1, 1)
    dilations: tuple[int, int, int, int] = (1, 1, 2, 4)
    trunk: Literal["finetune", "frozen"] = "finetune"

    scale: tuple[int, int] | None = (2048, 512)
    scale_ratio: tuple[float, float] = (0.5, 2.0)
    crop: int = Field(default=512, ge=32)
    cat_max_ratio: float = Field(default=0.75, gt=0, le=1)
    flip_p: float = Field(default=0.5, ge=0, le=1)
    photometric: bool = True
    test_mode: Literal["whole", "slide"] = "whole"
    test_scale: tuple[int, int] | None = (2048, 512)
    slide_stride: int = Field(default=341, ge=1)
    align_corners: bool = False
    shrink: bool = True

    iterations: int = Field(ge=1)
    global_batch_size: int = Field(default=16, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    base_lr: float = Field(default=0.01, gt=0)
    lr_rule: LrRule = "linear"
    reference_batch: int = Field(default=16, ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=5e-4, ge=0)
    schedule: Literal["poly", "step"] = "poly"
    poly_power: float = Field(default=0.9, gt=0)
    min_lr: float = Field(default=1e-4, ge=0)
    step_at: tuple[float, ...] = (0.7, 0.9)
    step_factor: float = Field(default=0.1, gt=0)
    warmup_iterations: int = Field(default=0, ge=0)
    warmup_ratio: float = Field(default=1e-6, ge=0, le=1)
    clip_norm: float = Field(default=0.0, ge=0)

    main: Annotated[Literal["mIoU", "mAcc", "aAcc"], Later(before="mIoU")] = "mIoU"
    budget: Annotated[float, Field(gt=0, le=1), Later(before=1.0)] = 1.0
    evaluate_every: int = Field(default=0, ge=0)
    save_every: int = Field(default=1000, ge=1)
    log_every: int = Field(default=50, ge=1)
    pictures: int = Field(default=8, ge=0)

    def override(self, changes: Mapping[str, Any]) -> Self:
        """A copy with some fields changed. Another batch or budget changes what is counted in iterations with it.

        A quarter of the batch takes four times the iterations, as in detection: else a quarter of the images is seen.
        Raises InputError as `Settings.override` does.
        """
        changed = super().override({**changes, **self._provisional(changes)})
        k = self.global_batch_size / changed.global_batch_size * changed.budget / self.budget
        if k == 1:
            return super().override(changes)
        counted = {"iterations": 1, "warmup_iterations": 0, "evaluate_every": 1 if self.evaluate_every else 0}
        scaled = {
            name: max(least, round(getattr(self, name) * k)) for name, least in counted.items() if name not in changes
        }
        return super().override({**changes, **scaled})

    def _provisional(self, changes: Mapping[str, Any]) -> dict[str, int]:
        # Few iterations given beside another batch may lie below the warm-up that is yet to follow the batch.
        return {} if "warmup_iterations" in changes else {"warmup_iterations": 0}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.scale_ratio[0] <= 0 or self.scale_ratio[0] > self.scale_ratio[1]:
            raise ValueError(f"scale_ratio must rise from above 0, not {self.scale_ratio}")
        for name in ("scale", "test_scale"):
            sides = getattr(self, name)
            if sides is not None and not sides[0] >= sides[1] > 0:
                raise ValueError(f"{name} is (long, short) in pixels, not {sides}")
        if self.head == "linear" and self.aux_weight:
            raise ValueError("the linear probe has no auxiliary head: set aux_weight to 0")
        if self.trunk == "frozen" and self.head != "linear":
            raise ValueError("a frozen trunk goes with head 'linear'")
        if self.warmup_iterations >= self.iterations:
            raise ValueError(
                f"warmup_iterations {self.warmup_iterations} must be fewer than iterations {self.iterations}"
            )
        if any(not 0 < part < 1 for part in self.step_at):
            raise ValueError(f"step_at holds parts of the whole between 0 and 1, not {self.step_at}")
        return self

    def lr(self) -> float:
        """The lr at the top of the schedule, for this batch size."""
        return scaled_lr(self.base_lr, self.lr_rule, self.reference_batch, self.global_batch_size)

    def lr_at(self, step: int) -> float:
        """The lr of the optimizer's step `step`, counted from 0.

        With warm-up the schedule runs on below it, as mmcv's `warmup="linear"` does: the factor multiplies what the
        schedule says for that step.
        """
        lr, part = self.lr(), step / self.iterations
        if self.schedule == "poly":
            lr = (lr - self.min_lr) * (1 - part) ** self.poly_power + self.min_lr
        else:
            lr *= self.step_factor ** sum(part >= at for at in self.step_at)
        if step < self.warmup_iterations:
            lr *= 1 - (1 - step / self.warmup_iterations) * (1 - self.warmup_ratio)
        return lr
