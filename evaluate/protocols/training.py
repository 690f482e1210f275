"""What the protocols that train through the images share: optimizer, schedule, augmentation, batch and its lr rule."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from evaluate.protocols.base import LrRule, scaled_lr
from evaluate.protocols.images import ImageProtocol
from pretrain.runtime.settings import Later

LarsForm = Literal["before_momentum", "after_momentum", "lr_in_momentum"]


class TrainingProtocol(ImageProtocol):
    """Base of `linear` (other than `sweep`), `semi` and `finetune`: epochs over augmented images.

    The lr that the optimizer gets is derived from the protocol's own rule whenever `global_batch_size` is changed:
    `fixed` keeps it, `linear` scales it by batch / `reference_batch`, `sqrt` by the root of that.

    Attributes:
        optimizer: "sgd" or "lars".
        lars_form, trust_coefficient: where LARS's local rate enters, and its factor; see `evaluate.trained.lars`.
        lr_rule, reference_batch: how lr follows the batch, see above.
        momentum, nesterov, weight_decay: of the optimizer; weight decay acts on weights and biases alike, as
            `torch.optim.SGD` does.
        global_batch_size: images a step over all ranks.
        epochs: passes over the training images.
        steps_per_epoch: a fixed number of steps counts as an epoch (DINOv2); None: what the training images give.
        schedule: "cosine_epoch" (half a cosine to 0, constant within an epoch), "cosine_step" (the same, each step) or
            "milestones" (times `gamma` at each of `milestones`, in epochs).
        crop_scale, flip_p: random resized crop (part of the area) and horizontal flip of the training image.
        train_interpolation: of the training crop; None: as `interpolation`.
        head_init: "normal" draws the head's weights from N(0, head_init_std), with the bias at 0; "torch" is
            `nn.Linear`'s own, weights and bias from U(-1/sqrt(D), 1/sqrt(D)); "haiku" is Haiku's, weights from
            N(0, 1/D) cut at two standard deviations, the bias at 0.
        head_init_std: of "normal".
        drop_last: the last incomplete batch of an epoch is left out.
        eval_every_epochs: the test split is measured after every so many epochs, and after the last. `best` is the best
            of these; it is chosen on the test set, so it is marked and never stands in for `last`.
    """

    optimizer: Literal["sgd", "lars"] = "sgd"
    lars_form: LarsForm = "before_momentum"
    trust_coefficient: float = Field(default=0.001, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0)
    lr_rule: LrRule = "fixed"
    reference_batch: int = Field(default=256, ge=1)
    global_batch_size: int = Field(default=256, ge=1)
    epochs: int = Field(default=100, ge=1)
    steps_per_epoch: int | None = Field(default=None, ge=1)
    schedule: Literal["cosine_epoch", "cosine_step", "milestones"] = "cosine_epoch"
    milestones: tuple[int, ...] = ()
    gamma: float = Field(default=0.1, gt=0, lt=1)
    crop_scale: tuple[float, float] = (0.08, 1.0)
    flip_p: float = Field(default=0.5, ge=0, le=1)
    train_interpolation: Literal["bilinear", "bicubic"] | None = None
    head_init: Annotated[Literal["normal", "torch", "haiku"], Later(before="normal")] = "normal"
    head_init_std: float = Field(default=0.01, ge=0)
    drop_last: Annotated[bool, Later(before=False)] = False
    eval_every_epochs: int = Field(default=1, ge=1)

    @field_validator("crop_scale")
    @classmethod
    def _a_range(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("expected two parts of the area, 0 < low <= high <= 1")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> TrainingProtocol:
        if (self.schedule == "milestones") != bool(self.milestones):
            raise ValueError("milestones belong to schedule 'milestones', and it needs them")
        if self.nesterov and self.optimizer == "lars":
            raise ValueError("nesterov is for sgd")
        return self

    def lr_at(self, base_lr: float, step: int, steps_per_epoch: int) -> float:
        """The optimizer's lr at `step` (from 0), by lr rule and schedule."""
        lr = scaled_lr(base_lr, self.lr_rule, self.reference_batch, self.global_batch_size)
        epoch = step // steps_per_epoch
        if self.schedule == "milestones":
            return lr * self.gamma ** sum(epoch >= milestone for milestone in self.milestones)
        done = epoch / self.epochs if self.schedule == "cosine_epoch" else step / (self.epochs * steps_per_epoch)
        return lr * 0.5 * (1 + math.cos(math.pi * done))

    def lr_line(self, base_lrs: dict[str, float], preset: TrainingProtocol | None) -> str:
        """One line that says which lr the optimizer starts from and why, and what the preset has if that differs.

        Args:
            base_lrs: name -> base lr of each parameter group; of more than two the smallest and largest are told.
            preset: the protocol of this name before anything was set.
        """
        told = sorted(base_lrs.items(), key=lambda item: item[1]) if len(base_lrs) > 2 else list(base_lrs.items())
        told = [told[0], told[-1]] if len(told) > 2 else told
        batch, reference = self.global_batch_size, self.reference_batch
        factor = {"fixed": "", "linear": f" x {batch}/{reference}", "sqrt": f" x sqrt({batch}/{reference})"}
        parts = []
        for name, base in told:
            part = f"{name} {scaled_lr(base, self.lr_rule, reference, batch):.6g}"
            parts.append(part if self.lr_rule == "fixed" else f"{part} = {base:g}{factor[self.lr_rule]}")
        joined = (" to " if len(base_lrs) > 2 else ", ").join(parts)
        line = f"{self.name}: lr at global batch {batch}, {self.lr_rule} rule: {joined}"
        if preset is not None and preset.global_batch_size != batch:
            line += f"; the preset's batch is {preset.global_batch_size}"
        return line
