"""How a learning rate follows the batch size; every recipe and protocol names its own rule."""

from __future__ import annotations

from typing import Literal

LrRule = Literal["fixed", "linear", "sqrt"]


def scaled_lr(base_lr: float, rule: LrRule, reference_batch: int, global_batch_size: int) -> float:
    """The lr the optimizer gets, from the lr at the rule's reference batch.

    `fixed`: base_lr whatever the batch; `linear` (Goyal et al. 2017): base_lr * batch / reference; `sqrt` (Krizhevsky
    2014): base_lr * sqrt(batch / reference).
    """
    ratio = global_batch_size / reference_batch
    return base_lr * {"fixed": 1.0, "linear": ratio, "sqrt": ratio**0.5}[rule]
