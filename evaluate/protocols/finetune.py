"""The named fine-tuning protocols with all labels. Each number carries its source."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from evaluate.protocols.training import TrainingProtocol


class TunedProtocol(TrainingProtocol):
    """The whole network is trained, backbone and head with base lrs of their own.

    Attributes:
        trunk_lr, head_lr: base lrs at the rule's reference batch.
        bn: "train" takes each rank's own batch statistics, "sync" those of all ranks, "eval" keeps the checkpoint's.
    """

    trunk_lr: float = Field(gt=0)
    head_lr: float = Field(gt=0)
    bn: Literal["train", "sync", "eval"] = "train"


PROTOCOLS: dict[str, TunedProtocol] = {
    "simclr": TunedProtocol(
        name="simclr",
        source="arXiv:2002.05709, appendix B.8.2 (from the paper, no code): SGD Nesterov 0.9, batch 256, 20,000 steps, "
        "random crops and flips",
        sources={
            "trunk_lr": "the paper's grid has 7 lrs from 0.0001 to 0.1 and 8 weight decays; this is one point of it",
            "weight_decay": "see trunk_lr",
            "steps_per_epoch": "20 x 1000 steps, this project: measured 20 times",
        },
        trunk_lr=0.01,
        head_lr=0.01,
        nesterov=True,
        weight_decay=1e-5,
        global_batch_size=256,
        epochs=20,
        steps_per_epoch=1000,
        schedule="cosine_step",
    ),
    "barlow_twins": TunedProtocol(
        name="barlow_twins",
        source="facebookresearch/barlowtwins evaluate.py --weights finetune --train-percent 100: SGD, batch 256, 100 "
        "epochs cosine, wd 1e-6 (its defaults)",
        sources={"trunk_lr": "README, semi-supervised: 0.005", "head_lr": "evaluate.py's default: 0.3"},
        trunk_lr=0.005,
        head_lr=0.3,
        weight_decay=1e-6,
        global_batch_size=256,
        epochs=100,
        interpolation="bilinear",
    ),
}
DEFAULT = "barlow_twins"
