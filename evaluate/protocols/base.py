"""What every protocol has: a name, the source of its numbers, and the rule by which lr follows the batch."""

from __future__ import annotations

from pretrain.runtime.lr_rule import LrRule, scaled_lr
from pretrain.runtime.settings import Settings

__all__ = ["LrRule", "TaskProtocol", "scaled_lr"]


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
