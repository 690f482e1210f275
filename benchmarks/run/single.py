"""Requests of `fastmoco pretrain` and `fastmoco evaluate`: one run that no campaign asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from benchmarks.run.request import RANDOM, CheckpointRef, Request
from evaluate.checkpoints.sources.references import identity, is_remote, locate
from evaluate.task import resolve_protocol
from pretrain.data.catalog import Catalog
from pretrain.recipes import resolve_recipe

Device = Literal["auto", "cpu", "cuda"]


def pretrain_request(
    catalog: Catalog, *, recipe: str, changes: Mapping[str, Any], data: str, seed: int, device: Device
) -> Request:
    """One pretraining. Raises InputError for a recipe, field or data set that does not exist."""
    resolved = resolve_recipe(recipe, changes)
    return Request(
        kind="pretrain",
        task="pretrain",
        settings_name=resolved.name,
        settings=resolved.model_dump(mode="json"),
        data=data,
        data_identity=catalog.identity(data),
        catalog=str(catalog.path) if catalog.path else None,
        seed=seed,
        device=device,
    ).named()


def evaluate_request(
    catalog: Catalog,
    *,
    task: str,
    checkpoint: str,
    data: str,
    protocol: str | None,
    changes: Mapping[str, Any],
    seed: int,
    select: str | None,
    normalization: str | None,
    arch: str | None = None,
    label: str | None,
    device: Device,
) -> Request:
    """One evaluation; random weights are drawn from its seed. Raises InputError for whatever does not exist."""
    resolved = resolve_protocol(task, protocol, changes)
    reference = CheckpointRef(label=label or _label(checkpoint), ref=checkpoint, init_seed=seed)
    if not checkpoint.startswith(RANDOM):
        located = locate(checkpoint if is_remote(checkpoint) else Path(checkpoint).expanduser().absolute())
        sha256, described = identity(located)
        reference = CheckpointRef(
            label=label or _label(checkpoint),
            ref=located.ref,
            sha256=sha256,
            described=described,
            select=select,
            normalization=normalization,
            arch=arch,
        )
    return Request(
        kind="evaluate",
        task=task,
        settings_name=resolved.name,
        settings=resolved.model_dump(mode="json"),
        data=data,
        data_identity=catalog.identity(data),
        catalog=str(catalog.path) if catalog.path else None,
        seed=seed,
        checkpoint=reference,
        device=device,
    ).named(hint=reference.label)


def _label(checkpoint: str) -> str:
    if checkpoint.startswith(RANDOM):
        return "random"
    if is_remote(checkpoint):
        # The last part of the name, without scheme, revision and digest.
        return re.split(r"[#@]", checkpoint)[0].rpartition("/")[2].removeprefix("timm:").partition(":")[0]
    path = Path(checkpoint)
    # Every pretraining's file is called backbone.safetensors; its folder tells them apart.
    return path.absolute().parent.name if path.name == "backbone.safetensors" else path.name.partition(".")[0]
