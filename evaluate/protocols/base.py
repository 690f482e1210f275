"""What every protocol has: a name, the source of its numbers, and the rule by which lr follows the batch."""

from __future__ import annotations

from typing import Literal

from pretrain.settings import Settings

LrRule = Literal["fixed", "linear", "sqrt"]


class TaskProtocol(Settings):
    """Base of the protocols of all tasks.

    Attributes:
        name: of the preset.
        source: paper section or repository file that the preset's numbers are from.
        sources: field -> source, for the numbers that come from somewhere else.
    """

    name: str
    source: str
    sources: dict[str, str] = {}


def scaled_lr(base_lr: float, rule: LrRule, reference_batch: int, global_batch_size: int) -> float:
    """The lr the optimizer gets, from the lr at the rule's reference batch.

    `fixed`: base_lr whatever the batch; `linear` (Goyal et al. 2017): base_lr * batch / reference; `sqrt` (Krizhevsky
    2014): base_lr * sqrt(batch / reference).
    """
    ratio = global_batch_size / reference_batch
    return base_lr * {"fixed": 1.0, "linear": ratio, "sqrt": ratio**0.5}[rule]
