"""What a detection or segmentation run kept of its test images: scored again without a model, or handed on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluate.protocols.base import TaskProtocol
from evaluate.task import resolve_protocol
from pretrain.data.catalog import Catalog
from pretrain.runtime.errors import InputError, unknown
from results.row import Metric, Run, read_run

# What scoring alone decides, by task: everything else has acted when the predictions were made.
SCORING = {"detection": ("interpolation", "main"), "segmentation": ("main",)}


def score(run_dir: Path, catalog: Catalog, changes: Mapping[str, Any] | None = None) -> list[Metric]:
    """The rows of a run from the predictions it kept, by its own protocol or with other settings of `SCORING`.

    Args:
        run_dir: of `fastmoco evaluate detection | segmentation`.
        catalog: where the test images' truth lies.
        changes: settings to score by instead, for instance {"interpolation": "voc10"}.

    Raises:
        InputError: a run of another task or without predictions, a setting that acts before scoring, or other data.
    """
    run = read_run(run_dir)
    if run.task not in SCORING:
        raise InputError(f"{run_dir} is a run of {run.task}; predictions are kept by {' and '.join(SCORING)}")
    for key in changes or {}:
        if key not in SCORING[run.task]:
            raise unknown(f"setting that scoring a {run.task} run alone decides", key, SCORING[run.task])
    protocol = _protocol(run, changes or {})
    if run.data.identity and catalog.identity(run.data.name) != run.data.identity:
        raise InputError(f"data set '{run.data.name}' is not what {run_dir} was measured on: its content has changed")
    if run.task == "segmentation":
        from evaluate.segmentation import tallies

        confusions = tallies.Confusions.load(Path(run_dir) / tallies.NAME)
        masks = catalog.masks(run.data.name, "test")
        return tallies.metrics(confusions, masks.classes, protocol.main)  # type: ignore[attr-defined]
    from evaluate.detection import library

    library.load()
    from evaluate.detection import kept
    from evaluate.detection.scoring import metrics
    from evaluate.protocols.detector import DetectionProtocol

    assert isinstance(protocol, DetectionProtocol)
    objects = catalog.objects(run.data.name, "test")
    found = kept.load(Path(run_dir) / kept.NAME, objects)
    return metrics(objects, found, protocol.interpolation, masks=protocol.masks, main=protocol.main)


def text(rows: list[Metric]) -> str:
    """Rows as lines: name, value, 95 % interval."""
    wide = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        interval = f"  {row.ci95[0]:6.2f} to {row.ci95[1]:.2f}" if row.ci95 else ""
        lines.append(f"{row.name:<{wide}}  {row.value:6.2f} {row.unit}{interval}")
    return "\n".join(lines)


def as_json(rows: list[Metric]) -> str:
    """Rows as a JSON list."""
    return json.dumps([row.model_dump(mode="json") for row in rows], indent=1)


def _protocol(run: Run, changes: Mapping[str, Any]) -> TaskProtocol:
    preset = resolve_protocol(run.task, run.protocol.name)
    return type(preset).model_validate(run.protocol.values).override(changes)
