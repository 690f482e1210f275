"""Whether a file's tensors are a whole model of timm's: asked when a file is inspected, as for ResNets.

A timm model's names and shapes come from the model itself, made without memory for its numbers. That takes timm's and
torch's import, so they are kept in the cache: an inspection imports neither once a model is known.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
from collections.abc import Mapping

from evaluate.checkpoints.architectures import COUNTER, Match, Shape
from evaluate.checkpoints.beside import read_table
from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import canonical_hash, write_json


def held_against(match: Match, shapes: Mapping[str, Shape], *, prefix: str = "model.") -> Match:
    """The match with everything that keeps these tensors from being all of its `timm:` model; others as they are.

    Args:
        shapes: name -> shape, `num_batches_tracked` left out.
        prefix: under which our backbone holds timm's model, where the file's names lack it.
    """
    if match.backbone is None or not match.backbone.startswith("timm:"):
        return match
    try:
        table = {name.removeprefix(prefix): shape for name, shape in model_shapes(match.backbone).items()}
    except InputError as error:
        return Match(None, match.text, reason=str(error))
    return Match(
        match.backbone,
        match.text,
        missing=tuple(name for name in table if name not in shapes),
        misshapen=tuple(f"{n} is {shapes[n]}, expected {s}" for n, s in table.items() if shapes.get(n, s) != s),
        unexpected=tuple(name for name in shapes if name not in table),
    )


def model_shapes(backbone: str) -> dict[str, Shape]:
    """Name -> shape of every tensor of a `timm:` backbone, `num_batches_tracked` left out.

    Raises:
        InputError: timm is not installed, or has no such model.
    """
    try:
        versions = [importlib.metadata.version(name) for name in ("timm", "torch", "fastmoco")]
    except importlib.metadata.PackageNotFoundError:
        versions = []  # building says what is missing
    kept = cache_root() / "architectures" / f"{canonical_hash([backbone, *versions])[:24]}.json"
    table = (read_table(kept) if versions else None) or {}
    if not table:
        table = _built(backbone)
        with contextlib.suppress(OSError):  # a cache that cannot be written costs time alone
            write_json(kept, table)
    return {name: tuple(shape) for name, shape in table.items()}


def _built(backbone: str) -> dict[str, list[int]]:
    import torch

    from pretrain.backbones.registry import build

    with torch.device("meta"):
        state = build(backbone).state_dict()
    return {name: list(tensor.shape) for name, tensor in state.items() if not name.endswith(COUNTER)}
