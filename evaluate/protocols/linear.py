"""The named linear protocols. Each number carries its source."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from evaluate.protocols.base import TaskProtocol
from evaluate.protocols.images import FeatureProtocol


class SweepProtocol(FeatureProtocol):
    """Many linear classifiers at once on features taken once, without augmentation; one is chosen on held-out images.

    Every pair of `lrs` and `weight_decays` is a classifier of its own: SGD with momentum, cosine to 0, no warm-up,
    weights drawn from N(0, 0.01). The pair with the best `metric` on a stratified `held_out` part of train is chosen;
    with `refit` that one is trained again, from the same start and for as many epochs, on all of train, since the
    protocols it is compared with train on all of it. The test set is looked at once, with the chosen one.

    Attributes:
        lrs: base learning rates, at batch 256; the optimizer's lr is base * batch_size / 256.
        weight_decays: tried with every lr.
        epochs: passes over the features; small sets get more, until `min_steps` steps are reached.
        batch_size: features a step.
        standardize: shift and scale each feature by its mean and standard deviation over train (as the affine-free
            batch norm of MAE's linear probe does), so that one grid of lrs suits backbones of any output scale. The
            classifier stays linear in the features; the head that is saved has the scaling folded in.
        held_out: fraction of train to choose on.
        metric: what is chosen by, and the main metric.
    """

    lrs: tuple[float, ...] = Field(min_length=1)
    weight_decays: tuple[float, ...] = Field(default=(0.0,), min_length=1)
    epochs: int = Field(default=50, ge=1)
    min_steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=1024, ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    standardize: bool = True
    held_out: float = Field(default=0.1, gt=0, lt=1)
    refit: bool = True
    metric: Literal["top1", "mean_per_class"] = "top1"

    @field_validator("lrs")
    @classmethod
    def _lrs_positive(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(lr <= 0 for lr in value):
            raise ValueError("every lr must be above 0")
        return value

    @field_validator("weight_decays")
    @classmethod
    def _decays_not_negative(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(decay < 0 for decay in value):
            raise ValueError("every weight decay must be at least 0")
        return value


PROTOCOLS: dict[str, TaskProtocol] = {
    "sweep": SweepProtocol(
        name="sweep",
        source="this project, after dinov2 eval/linear.py (13 lrs over one backbone pass, cosine, momentum 0.9, wd 0) "
        "and mae main_linprobe.py (affine-free batch norm); unlike dinov2 it chooses on a part of train",
        lrs=(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    ),
}
DEFAULT = "sweep"
