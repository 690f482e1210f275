"""The named linear protocols. Each number carries its source."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from evaluate.protocols.base import TaskProtocol
from evaluate.protocols.images import ChoosingProtocol, TokensSeen
from evaluate.protocols.training import TrainingProtocol
from pretrain.runtime.settings import Later


class SweepProtocol(ChoosingProtocol):
    """Many linear classifiers at once on features taken once, without augmentation; one is chosen on held-out images.

    Every pair of `lrs` and `weight_decays` is a classifier of its own: SGD with momentum, cosine to 0, no warm-up,
    weights drawn from N(0, 0.01). The pair with the best `metric` on a stratified `held_out` part of train is chosen
    (on the official val split with `use_val`); with `refit` that one is trained again, from the same start and for as
    many epochs, on all of train (and val), since the protocols it is compared with train on all of it. The test set is
    looked at once, with the chosen one.

    Attributes:
        lrs: base learning rates, at batch 256; the optimizer's lr is base * batch_size / 256.
        weight_decays: tried with every lr.
        epochs: passes over the features; small sets get more, until `min_steps` steps are reached.
        batch_size: features a step.
        standardize: shift and scale each feature by its mean and standard deviation over train (as the affine-free
            batch norm of MAE's linear probe does), so that one grid of lrs suits backbones of any output scale. The
            classifier stays linear in the features; the head that is saved has the scaling folded in.
    """

    lrs: tuple[float, ...] = Field(min_length=1)
    weight_decays: tuple[float, ...] = Field(default=(0.0,), min_length=1)
    epochs: int = Field(default=50, ge=1)
    min_steps: int = Field(default=1000, ge=1)
    batch_size: int = Field(default=1024, ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    standardize: bool = True
    refit: bool = True

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


class LinearProtocol(TrainingProtocol):
    """A linear classifier trained through the frozen backbone, on augmented images.

    The backbone stays in eval mode, so that its BN statistics stay too; a fingerprint before and after proves it.
    Several `base_lrs` (BYOL, DINOv2) are as many classifiers trained at once on the same images; the best one on the
    `held_out` part of train is measured on test (BYOL does that; DINOv2's code chooses on the val set); with `refit` it
    is first trained again, in the same way, on all of train. With a single classifier nothing is held out, and `last`
    and `best` are both reported.

    Attributes:
        base_lrs: at the rule's reference batch.
        blocks: for ViTs, a classifier for each number of last blocks whose class tokens it sees; a ResNet's
            classifiers see its pooled output.
        patch_averages: for ViTs, a classifier without (False) and with (True) the mean of the patch tokens.
        tokens, norm: what is taken of each block, as in the protocols of features.
        held_out: part of train to choose on where there are several classifiers.
        refit: train the chosen one again on all of train; it has no part where there is one classifier.
    """

    base_lrs: tuple[float, ...] = Field(min_length=1)
    blocks: tuple[int, ...] = (1,)
    patch_averages: tuple[bool, ...] = (False,)
    tokens: Annotated[TokensSeen, Later(before="pooled")] = "pooled"
    norm: Annotated[bool, Later(before=True)] = True
    held_out: float = Field(default=0.1, gt=0, lt=1)
    refit: bool = False


_LRS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_PROBE_EVERY = "this project: after every epoch"

PROTOCOLS: dict[str, TaskProtocol] = {
    "sweep": SweepProtocol(
        name="sweep",
        source="this project, after dinov2 eval/linear.py (13 lrs over one backbone pass, cosine, momentum 0.9, wd 0) "
        "and mae main_linprobe.py (affine-free batch norm); unlike dinov2 it chooses on a part of train",
        lrs=_LRS,
    ),
    "transfer": SweepProtocol(
        name="transfer",
        source="this project: `sweep` with the images and splits of logreg's `transfer` (arXiv:1805.08974, appendix; "
        "linusericsson/ssl-transfer linear.py): resize 224 bicubic, chosen on the official val split or 20 % of train, "
        "retrained on both",
        lrs=_LRS,
        held_out=0.2,
        use_val=True,
        resize=224,
        native_up_to_px=0,
    ),
    "moco_v2": LinearProtocol(
        name="moco_v2",
        source="facebookresearch/moco main_lincls.py: SGD lr 30 at batch 256, not scaled, x0.1 at 60/80 of 100; "
        "R50: 67.5 (200 epochs), 71.1 (800)",
        base_lrs=(30.0,),
        global_batch_size=256,
        epochs=100,
        schedule="milestones",
        milestones=(60, 80),
        gamma=0.1,
        interpolation="bilinear",
    ),
    "moco_v3": LinearProtocol(
        name="moco_v3",
        source="facebookresearch/moco-v3 main_lincls.py: SGD 0.1 * batch/256, batch 1024, 90 epochs, cosine by epoch; "
        "R50: 68.9 / 72.8 / 74.6 (100 / 300 / 1000 epochs)",
        base_lrs=(0.1,),
        lr_rule="linear",
        global_batch_size=1024,
        epochs=90,
        interpolation="bilinear",
    ),
    "simsiam": LinearProtocol(
        name="simsiam",
        source="facebookresearch/simsiam main_lincls.py --lars: LARC (trust 0.001, no clip), 0.1 * batch/256, "
        "batch 4096, 90 epochs (the paper prints 0.02; the code is right, simsiam#13); R50: 68.1 / 68.3",
        optimizer="lars",
        base_lrs=(0.1,),
        lr_rule="linear",
        global_batch_size=4096,
        epochs=90,
        interpolation="bilinear",
    ),
    "byol": LinearProtocol(
        name="byol",
        source="deepmind-research byol/configs/eval.py: SGD Nesterov 0.2 * batch/256, 80 epochs, cosine by step, "
        "batch 1024; the five lrs: arXiv:2006.07733, appendix C.1; bicubic: byol/utils/dataset.py",
        sources={
            "held_out": "byol/utils/dataset.py: 10,000 of 1,281,167 images are kept from train to choose on",
            "refit": "byol/utils/dataset.py: its split TRAIN_AND_VALID is both",
        },
        head_init="haiku",
        base_lrs=(0.05, 0.1, 0.2, 0.3, 0.4),
        held_out=0.0078,
        refit=True,
        nesterov=True,
        lr_rule="linear",
        global_batch_size=1024,
        epochs=80,
        schedule="cosine_step",
    ),
    "simclr": LinearProtocol(
        name="simclr",
        source="google-research/simclr README and model_util.py (MomentumOptimizer, use_nesterov): 0.1 * batch/256, "
        "batch 4096, 90 epochs, wd 1e-6, logits start at 0; its own weights see pixels in 0..1",
        base_lrs=(0.1,),
        lr_rule="linear",
        global_batch_size=4096,
        epochs=90,
        schedule="cosine_step",
        weight_decay=1e-6,
        head_init_std=0.0,
        nesterov=True,
        stated_normalization="none",
    ),
    "swav": LinearProtocol(
        name="swav",
        source="facebookresearch/swav eval_linear.py: SGD 0.3 at batch 256 (32 x 8), 100 epochs cosine, wd 1e-6, its "
        "own std; R50: 75.3",
        base_lrs=(0.3,),
        global_batch_size=256,
        epochs=100,
        weight_decay=1e-6,
        stated_normalization="swav",
        interpolation="bilinear",
    ),
    "barlow_twins": LinearProtocol(
        name="barlow_twins",
        source="facebookresearch/barlowtwins evaluate.py: SGD 0.3 at batch 256, 100 epochs cosine, wd 1e-6; R50: 73.5",
        base_lrs=(0.3,),
        global_batch_size=256,
        epochs=100,
        weight_decay=1e-6,
        interpolation="bilinear",
    ),
    "vicreg": LinearProtocol(
        name="vicreg",
        source="facebookresearch/vicreg README (--lr-head 0.02) and evaluate.py: batch 256, 100 epochs cosine, wd "
        "1e-6; R50: 73.2",
        base_lrs=(0.02,),
        global_batch_size=256,
        epochs=100,
        weight_decay=1e-6,
        interpolation="bilinear",
    ),
    "dino": LinearProtocol(
        name="dino",
        source="facebookresearch/dino eval_linear.py: SGD 0.001 * batch/256, batch 1024 (128 x 8), 100 epochs cosine",
        sources={
            "base_lrs": "the ViT-S default; a ResNet-50 needs about 0.3 at batch 1024 (dino#131): "
            "--set base_lrs=[0.075]",
            "blocks": "4 for ViT-S; 1 with patch_averages=[true] for ViT-B",
        },
        base_lrs=(0.001,),
        blocks=(4,),
        lr_rule="linear",
        global_batch_size=1024,
        epochs=100,
        train_interpolation="bilinear",
    ),
    "dinov2": LinearProtocol(
        name="dinov2",
        source="facebookresearch/dinov2 eval/linear.py: SGD, 13 lrs * batch/256 x {1, 4} blocks x with and without "
        "average pooling, 10 x 1250 steps, cosine by step, batch 1024 (dinov2#232)",
        sources={"held_out": "this project: the code chooses the best head on the val set"},
        base_lrs=(1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1),
        blocks=(1, 4),
        patch_averages=(False, True),
        lr_rule="linear",
        global_batch_size=1024,
        epochs=10,
        steps_per_epoch=1250,
        schedule="cosine_step",
    ),
    "fast_moco": LinearProtocol(
        name="fast_moco",
        source="orashi/Fast-MoCo ssl_exp/fast_moco/*/config_finetune.yaml, core/optimizer/lars.py: LARS 0.8 (trust "
        "0.001, momentum 0.9, wd 0), 90 epochs cosine, batch 4096 (128 x 32), bicubic; R50: 73.5 / 75.1 / 75.5",
        sources={
            "schedule": "CosineEpoch names the scheduler that moves each iteration (core/lr_scheduler/__init__.py:12)",
            "eval_every_epochs": _PROBE_EVERY + "; the code validates every 300 steps and reports the best",
        },
        optimizer="lars",
        lars_form="after_momentum",
        base_lrs=(0.8,),
        global_batch_size=4096,
        epochs=90,
        schedule="cosine_step",
    ),
    "mmselfsup": LinearProtocol(
        name="mmselfsup",
        source="open-mmlab/mmselfsup configs/benchmarks/classification/imagenet/"
        "resnet50_linear-8xb512-coslr-90e_in1k.py, engine/optimizers/lars.py: LARS 1.6 at batch 4096, 90 epochs cosine",
        optimizer="lars",
        lars_form="lr_in_momentum",
        base_lrs=(1.6,),
        global_batch_size=4096,
        epochs=90,
        interpolation="bilinear",
    ),
    "lightly": LinearProtocol(
        name="lightly",
        source="lightly-ai/lightly benchmarks/imagenet/resnet50/linear_eval.py and lightly/utils/benchmarking: SGD "
        "0.1 * batch/256, 90 epochs cosine by step; same for all methods",
        sources={"global_batch_size": "128 a device by default; two devices here"},
        head_init="torch",
        drop_last=True,
        base_lrs=(0.1,),
        lr_rule="linear",
        global_batch_size=256,
        epochs=90,
        schedule="cosine_step",
        interpolation="bilinear",
    ),
}
DEFAULT = "sweep"
