"""The formats of checkpoints, each a row: how it is told, which encoder its paper evaluates, what it drops.

A file is recognised by its structure, never by its name. Names here are "clean": `module.` (DataParallel) and
`_orig_mod.` (torch.compile) are left out wherever they stand as a segment of their own. An encoder's label is the path
of its state dict and its clean prefix, for instance `teacher/backbone.` for a DINO file.
"""

from __future__ import annotations

import re

from evaluate.checkpoints.formats.facts import HEAD, PREDICTOR, PROJECTOR, QUEUE, Facts, Format
from evaluate.checkpoints.formats.frameworks import FRAMEWORKS
from evaluate.checkpoints.formats.libraries import LIBRARIES, OWN
from evaluate.checkpoints.formats.papers import PAPERS
from evaluate.checkpoints.formats.transformers import TRANSFORMERS

__all__ = ["FORMATS", "OWN", "PLAIN", "Facts", "Format", "matching", "reason_to_drop"]

FORMATS: tuple[Format, ...] = (OWN, *PAPERS, *TRANSFORMERS, *FRAMEWORKS, *LIBRARIES)

PLAIN = Format(
    "plain",
    "a file of no known project",
    lambda f: True,
    "no known structure, but an encoder in a known spelling",
    (),
    "the one encoder there is",
    (HEAD, PROJECTOR, PREDICTOR, QUEUE),
    normalization=None,
)


def matching(facts: Facts) -> list[Format]:
    """Every format that tells the file as its own; `PLAIN` where none does."""
    return [row for row in FORMATS if facts.encoders and row.tells(facts)] or [PLAIN]


def reason_to_drop(row: Format, path: str, name: str, inside: str) -> str | None:
    """Why a format leaves a tensor out, or None if its table does not say.

    Args:
        path: of the tensor's state dict.
        name: clean.
        inside: the same without the chosen encoder's prefix.
    """
    for pattern, reason in row.drops:
        if any(re.match(pattern, spelt) for spelt in (name, inside, f"{path}/{name}")):
            return reason
    return None
