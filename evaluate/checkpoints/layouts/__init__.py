"""How encoders' tensors are spelt: for each spelling, how it is told and what each name is in ours.

Ours are torchvision's names for ResNets and timm's for everything else. One file a family of spellings.
"""

from __future__ import annotations

from collections.abc import Iterable

from evaluate.checkpoints.layouts.convnets import CONVNEXTS
from evaluate.checkpoints.layouts.others import OTHERS
from evaluate.checkpoints.layouts.resnets import RESNETS
from evaluate.checkpoints.layouts.spelling import Layout
from evaluate.checkpoints.layouts.vits import HUGGINGFACE_VITS, VITS
from evaluate.checkpoints.layouts.windows import SWINS

__all__ = ["LAYOUTS", "Layout", "prefixes"]

LAYOUTS: tuple[Layout, ...] = (*RESNETS, *VITS, *HUGGINGFACE_VITS, *CONVNEXTS, *SWINS, *OTHERS)


def prefixes(names: Iterable[str]) -> list[tuple[str, Layout]]:
    """Every prefix under which `names` holds an encoder, with its layout, in order of appearance."""
    known = set(names)
    found: list[tuple[str, Layout]] = []
    for layout in LAYOUTS:
        first, *rest = layout.anchors
        for name in names:
            if not name.endswith(first):
                continue
            prefix = name[: len(name) - len(first)]
            if prefix and not prefix.endswith((".", "/")):
                continue
            if all(prefix + other in known for other in rest) and not any(prefix + n in known for n in layout.unless):
                found.append((prefix, layout))
    return found
