"""What each preset is held to: facts of its source, known deviations, and what could not be verified. No torch.

The rows are in `conformance.yaml`; `tests/conformance` holds what the code does against their facts.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml
from pydantic import ConfigDict

from pretrain.runtime.settings import Settings

PRETRAIN = "pretrain"  # the key of the recipes' rows
HELD = {
    PRETRAIN: "lr of every step, groups, weight decay, momentum, clipping, steps of an epoch, head norms",
    "knn": "k, temperature, weights and ranking of the vote, normalisation of features, test images, main metric",
    "linear": "lr of every epoch and within it, groups, weight decay, momentum form, head, images, metric",
    "logreg": "grid of C, held-out part, iterations, test images, main metric",
    "svm": "costs, folds, weights, iterations, feature width, average precision, test images",
    "detection": "lr of every stretch, batch, momentum, weight decay; the model by tests/evaluate/detection",
    "segmentation": "lr of every stretch, iterations, batch, optimizer; the model by tests/evaluate/segmentation",
}
HELD |= {"semi": HELD["linear"], "finetune": HELD["linear"]}
TOLERANCE = "1e-9 relative for lrs, 1e-5 for updates in float32, equality for the rest"


class Row(Settings):
    """One preset's row.

    Attributes:
        source: repositories with revision and files, or a paper's section.
        facts: numbers as the source has them; the tests know what each means.
        deviations: what differs from the source and why.
        not_verified: what the row does not claim.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    facts: dict[str, Any] = {}
    deviations: tuple[str, ...] = ()
    not_verified: tuple[str, ...] = ()

    def lines(self, task: str) -> list[tuple[str, str]]:
        """The row as (what, text) pairs for people."""
        held = f"{HELD[task]}; tolerance: {TOLERANCE}" if self.facts else "nothing outside this project"
        return [
            ("held against", self.source),
            ("held", held),
            ("deviations", "; ".join(self.deviations) or "none known"),
            ("not verified", "; ".join(self.not_verified) or "nothing that is claimed"),
        ]


@cache
def rows() -> dict[str, dict[str, Row]]:
    """Task (or `PRETRAIN`) -> name of the preset -> its row."""
    text = (files("evaluate.protocols") / "conformance.yaml").read_text(encoding="utf-8")
    return {
        task: {name: Row.model_validate(values) for name, values in presets.items()}
        for task, presets in yaml.safe_load(text).items()
    }


def row(task: str, name: str) -> Row | None:
    """The row of a preset; None for a name that is none."""
    return rows().get(task, {}).get(name)
