"""The named semi-supervised protocols: fine-tuning with a share of the labels. Each number carries its source.

The field publishes 1 % and 10 %. Another share takes the settings of the nearer of the two on a logarithmic scale,
which is this project's choice: below 3.16 % those of 1 %.

Nothing is published of Fast-MoCo's own semi-supervised recipe: measure it with `swav` and say so.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from evaluate.protocols.finetune import TunedProtocol
from evaluate.protocols.training import TrainingProtocol
from pretrain.runtime.settings import Later, Settings

BETWEEN = 10**0.5  # per cent: as far from 1 as from 10 on a logarithmic scale


def _whole(value: float) -> float:
    """`10.0` is `10`: the same share has one run id."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


class ByPercent(Settings):
    """A number for each share of the labels: `one` per cent and `ten` per cent, each for the shares near it."""

    one: float = Field(gt=0)
    ten: float = Field(gt=0)

    def of(self, percent: float) -> float:
        """The one for the nearer of 1 and 10."""
        return self.one if percent < BETWEEN else self.ten


class SemiProtocol(TrainingProtocol):
    """Fine-tuning on a few labels; lrs (and SimCLR's epochs) belong to the share of labels.

    Which images: of ImageNet with 1 % and 10 % SimCLR's lists (12,811 and 128,116 images), which are part of this
    package; of other sets and shares the same part of every class, at least one image, drawn from the run's seed. With
    one seed a smaller share is part of a larger one.

    Attributes:
        percent: of the labels.
        per_class: so many labels of each class instead of a share; the settings go by the share that they are.
        trunk_lr, head_lr: base lrs of backbone and head.
        epochs_ten: epochs for 10 % (and the shares near it) where they are others than `epochs`.
        bn: as in `finetune`.
    """

    percent: Annotated[int | float, Field(gt=0, le=100), AfterValidator(_whole)] = 1
    per_class: Annotated[Annotated[int, Field(ge=1)] | None, Later(before=None)] = None
    trunk_lr: ByPercent
    head_lr: ByPercent
    epochs_ten: int | None = Field(default=None, ge=1)
    bn: Literal["train", "sync", "eval"] = "train"

    def tuned(self, share: float | None = None) -> TunedProtocol:
        """The fine-tuning for a share of the labels in per cent; for `percent` when not given."""
        share = self.percent if share is None else share
        values = {name: getattr(self, name) for name in TrainingProtocol.model_fields}
        if share >= BETWEEN and self.epochs_ten is not None:
            values["epochs"] = self.epochs_ten
        trunk_lr, head_lr = self.trunk_lr.of(share), self.head_lr.of(share)
        return TunedProtocol(**values, trunk_lr=trunk_lr, head_lr=head_lr, bn=self.bn)


PROTOCOLS: dict[str, SemiProtocol] = {
    "swav": SemiProtocol(
        name="swav",
        source="facebookresearch/swav README and eval_semisup.py: SGD, 20 epochs, x0.2 at 12/16, wd 0, batch 256, "
        "SyncBN",
        trunk_lr=ByPercent(one=0.02, ten=0.01),
        head_lr=ByPercent(one=5.0, ten=0.2),
        head_init="torch",
        bn="sync",
        global_batch_size=256,
        epochs=20,
        schedule="milestones",
        milestones=(12, 16),
        gamma=0.2,
        stated_normalization="swav",
        interpolation="bilinear",
    ),
    "barlow_twins": SemiProtocol(
        name="barlow_twins",
        source="facebookresearch/barlowtwins README and evaluate.py: SGD, 20 epochs cosine, wd 0, batch 256 (the same "
        "lrs for 1 % and 10 %; barlowtwins#14: a user gets 68.9 where the paper has 69.7)",
        trunk_lr=ByPercent(one=0.005, ten=0.005),
        head_lr=ByPercent(one=0.5, ten=0.5),
        global_batch_size=256,
        epochs=20,
        interpolation="bilinear",
    ),
    "vicreg": SemiProtocol(
        name="vicreg",
        source="facebookresearch/vicreg README (its --lr-classifier is called --lr-head by the parser) and evaluate.py",
        trunk_lr=ByPercent(one=0.03, ten=0.01),
        head_lr=ByPercent(one=0.08, ten=0.1),
        global_batch_size=256,
        epochs=20,
        interpolation="bilinear",
    ),
    "mmselfsup": SemiProtocol(
        name="mmselfsup",
        source="open-mmlab/mmselfsup configs/benchmarks/classification/imagenet/imagenet_{1,10}percent: SGD, 20 "
        "epochs, x0.2 at 12/16, wd 5e-4, batch 256 (4 x 64), SyncBN",
        sources={
            "trunk_lr": "one of its nine: lr 0.1, 0.01, 0.001 times head multiplier 1, 10, 100 (here 0.01 and 100)",
            "head_lr": "see trunk_lr",
        },
        trunk_lr=ByPercent(one=0.01, ten=0.01),
        head_lr=ByPercent(one=1.0, ten=1.0),
        bn="sync",
        weight_decay=5e-4,
        global_batch_size=256,
        epochs=20,
        schedule="milestones",
        milestones=(12, 16),
        gamma=0.2,
        interpolation="bilinear",
    ),
    "simclr": SemiProtocol(
        name="simclr",
        source="arXiv:2002.05709, appendix B.5 (from the paper): SGD Nesterov 0.05 * batch/256, batch 4096, 60 epochs "
        "for 1 % and 30 for 10 %, no regularisation; its own weights see pixels in 0..1",
        sources={"schedule": "this project: the paper's sentence names no schedule"},
        trunk_lr=ByPercent(one=0.05, ten=0.05),
        head_lr=ByPercent(one=0.05, ten=0.05),
        nesterov=True,
        lr_rule="linear",
        bn="sync",
        global_batch_size=4096,
        epochs=60,
        epochs_ten=30,
        schedule="cosine_step",
        stated_normalization="none",
    ),
}
DEFAULT = "swav"
