"""Which model a trunk's shapes make, family by family: what shapes tell, and what has to be known besides.

Shapes do not tell the number of heads, the activation, an epsilon, a window, or which tokens are pooled. Such facts
come from the user (`--arch`), the file, the tables beside it, or the code that its spelling belongs to, in that order;
where none of them says, the file is refused with the question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evaluate.checkpoints.architectures import Match, Shape, match_resnet
from evaluate.checkpoints.families.convnext import match_convnext
from evaluate.checkpoints.families.rotary import match_eva
from evaluate.checkpoints.families.swin import match_swin, match_swin_v2
from evaluate.checkpoints.families.timm_table import match_by_table
from evaluate.checkpoints.families.vit import match_beit, match_vit

__all__ = ["Told", "match"]

Told = Mapping[str, Any]
FAMILIES: dict[str, Callable[[Mapping[str, Shape], Told], Match]] = {
    "vit": match_vit,
    "beit": match_beit,
    "eva": match_eva,
    "convnext": match_convnext,
    "swin": match_swin,
    "swinv2": match_swin_v2,
    "timm": match_by_table,
}


def match(kind: str, shapes: Mapping[str, Shape], told: Told) -> Match:
    """The model that fits best.

    Args:
        kind: of the layout; a sentence where no backbone can take it.
        shapes: our name -> shape, `num_batches_tracked` left out.
        told: facts that shapes do not tell, as arguments of timm's model, and `eps`.
    """
    if kind == "resnet":
        return match_resnet(shapes)
    if kind in FAMILIES:
        return FAMILIES[kind](shapes, told)
    return Match(None, "a deep stem", reason=kind)
