"""What a recipe of pretraining is; the named ones are in `recipes`. Imports no torch, so that planning is quick."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pretrain.runtime.lr_rule import LrRule, scaled_lr
from pretrain.runtime.settings import Later, Settings
from pretrain.views.settings import ViewsSpec


class Head(Settings):
    """A multi-layer perceptron: linear layers with batch norm and ReLU between them.

    Attributes:
        layers: how many linear layers.
        hidden, out: widths of the inner layers and of the output.
        bias: whether the linear layers have one.
        last_norm: batch norm on the output: with scale and shift ("affine"), without ("plain"), or none.
    """

    layers: int = Field(ge=1, le=8)
    hidden: int = Field(ge=1)
    out: int = Field(ge=1)
    bias: bool = True
    last_norm: Literal["affine", "plain", "none"] = "none"


class Recipe(Settings):
    """How weights are made. A run is a recipe, a data set and a seed.

    Attributes:
        name, source, sources: of the recipe; `sources` maps a field to its own source where that differs.
        method: what tables call weights made this way.
        backbone: a name of `pretrain.backbones.registry.names()` or `timm:MODEL`.
        zero_init_residual: start each residual branch at zero.
        views: the augmentation of the two views.

        grid: the query view is divided into grid x grid patches (1: the view stays whole).
        overlap: how much longer than a cell of the grid a patch is, as a fraction of the cell.
        combine: r, how many of the grid**2 patches are averaged into one query.
        combine_at: where the average is taken: of the backbone's, the projector's or the predictor's output.
        max_combinations: at most this many combinations, drawn with the run's seed.
        extra_view: a third view that stays whole and is compared with the keys of both others (the multi-crop variant).
        projector, predictor: the heads.
        head_norm_init: scales of the heads' batch norms start at 1 ("ones") or uniform in (0, 1) ("uniform").
        temperature: of InfoNCE.
        loss_scale: "mean" over all terms (Fast-MoCo), or "sum_2t": both views' means summed, times 2T (MoCo v3).
        momentum, momentum_schedule: of the key encoder; held ("constant") or raised to 1 by half a cosine ("cosine").
        momentum_init: the key encoder starts as a "copy" of the encoder, or "fresh" with draws of its own.

        optimizer: "sgd" or "lars"; sgd_momentum, weight_decay, decay_1d (biases and norm scales decay too).
        base_lr, lr_rule, reference_batch: lr at the reference batch and how it follows global_batch_size.
        warmup_epochs, warmup_start_lr: linear warm-up from warmup_start_lr (at the reference batch); then cosine to 0.
        predictor_lr: "cosine" with the rest or "constant" at its base lr, warm-up included.
        clip_grad_norm: the gradient's norm is cut to this; None leaves it.
        lr_counts_from: the schedule's number of the first step: 0, or 1 as in the public Fast-MoCo code (whose warm-up
            ends a step earlier, and whose last step has the lr 0).
        epochs, global_batch_size: see `epoch_end`.
        epoch_end: the last incomplete batch of an epoch is left out ("drop"), or filled with images drawn a second
            time, anywhere in the epoch ("pad").
        train_images: about so many images of the training split, the same part of each class, seed 0; None: all.

        cross_rank_bn: batch-norm statistics over all ranks; without, each rank has its own.
        precision: "float32", or "bf16" autocast of the forward pass.
        micro_batch_size: queries pass in parts of so many images of a rank: memory of the part, negatives of the whole
            batch, batch-norm statistics of the part. None: all at once.
        compile: torch.compile of encoder, heads and momentum encoder; on a CPU it asks for a C++ compiler.
        workers: loader processes of each rank.
        save_every_steps, keep_epochs: how often the state is saved, and after which epochs a backbone file is kept.
        log_every_steps: how often curves get a point.
        online_knn_every: epochs between measurements of kNN accuracy on a held-out tenth of train; 0: never.
    """

    name: str
    source: str
    sources: dict[str, str] = {}
    method: str = "fast_moco"
    backbone: str
    zero_init_residual: bool = False
    views: ViewsSpec

    grid: Literal[1, 2, 3] = 2
    overlap: float = Field(default=0.0, ge=0, le=1)
    combine: int = Field(default=2, ge=1, le=9)
    combine_at: Literal["backbone", "projector", "predictor"] = "backbone"
    max_combinations: int | None = Field(default=None, ge=1, le=126)
    extra_view: bool = False
    projector: Head
    predictor: Head
    head_norm_init: Annotated[Literal["ones", "uniform"], Later(before="ones")] = "ones"
    temperature: float = Field(gt=0)
    loss_scale: Literal["mean", "sum_2t"] = "mean"
    momentum: float = Field(ge=0, le=1)
    momentum_schedule: Literal["constant", "cosine"] = "constant"
    momentum_init: Literal["copy", "fresh"] = "copy"

    optimizer: Literal["sgd", "lars"] = "sgd"
    sgd_momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    decay_1d: bool = True
    base_lr: float = Field(gt=0)
    lr_rule: LrRule = "linear"
    reference_batch: int = Field(ge=1)
    warmup_epochs: float = Field(default=0.0, ge=0)
    warmup_start_lr: float = Field(default=0.0, ge=0)
    predictor_lr: Literal["cosine", "constant"] = "cosine"
    clip_grad_norm: float | None = Field(default=None, gt=0)
    lr_counts_from: Annotated[Literal[0, 1], Later(before=0)] = 0
    epochs: int = Field(ge=1)
    global_batch_size: int = Field(ge=2)
    epoch_end: Annotated[Literal["drop", "pad"], Later(before="drop")] = "drop"
    train_images: int | None = Field(default=None, ge=2)

    cross_rank_bn: bool = True
    precision: Literal["float32", "bf16"] = "float32"
    micro_batch_size: int | None = Field(default=None, ge=2)
    compile: bool = False
    workers: int = Field(default=0, ge=0)
    save_every_steps: int = Field(default=500, ge=1)
    keep_epochs: tuple[int, ...] = ()
    log_every_steps: int = Field(default=10, ge=1)
    online_knn_every: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        patches = self.grid**2
        if self.combine > patches:
            raise ValueError(
                f"combine is {self.combine}, expected 1 to {patches}: grid {self.grid} makes {patches} patches"
            )
        if self.views.size % self.grid:
            fits = ", ".join(str(g) for g in (1, 2, 3) if self.views.size % g == 0)
            raise ValueError(f"grid {self.grid} does not divide views of {self.views.size} pixels; grid may be {fits}")
        if self.projector.out != self.predictor.out:
            raise ValueError(
                f"predictor.out is {self.predictor.out}, expected projector.out, {self.projector.out}: "
                "queries are compared with the projector's keys"
            )
        if any(epoch < 1 or epoch > self.epochs for epoch in self.keep_epochs):
            raise ValueError(f"keep_epochs is {list(self.keep_epochs)}, expected epochs from 1 to {self.epochs}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs:g}, expected fewer than epochs, {self.epochs}")
        return self

    @property
    def num_combinations(self) -> int:
        """G, the queries that one view of an image gives."""
        return min(math.comb(self.grid**2, self.combine), self.max_combinations or 126)

    def steps_per_epoch(self, images: int) -> int:
        """How many steps an epoch over so many images has."""
        return -(-images // self.global_batch_size) if self.epoch_end == "pad" else images // self.global_batch_size

    @property
    def lr(self) -> float:
        """The lr the optimizer gets at its peak."""
        return scaled_lr(self.base_lr, self.lr_rule, self.reference_batch, self.global_batch_size)

    @property
    def start_lr(self) -> float:
        """The lr at the first step of the warm-up."""
        return scaled_lr(self.warmup_start_lr, self.lr_rule, self.reference_batch, self.global_batch_size)


# Fields that change neither the weights nor their meaning: a run may resume with others, and run ids leave them out.
BOOKKEEPING = frozenset({"name", "source", "sources", "workers", "save_every_steps", "keep_epochs", "log_every_steps"})
