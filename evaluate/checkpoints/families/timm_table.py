"""timm's models by their shapes: which have just these tensors, and which of those compute something else.

The table is made from timm itself (`python -m evaluate.checkpoints.families.timm_table`, minutes): a signature of names
and shapes -> groups of models, those of a group being the same function. On loading, the tensors are held against the
installed timm's model all the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from evaluate.checkpoints.architectures import COUNTER, Match, Shape
from pretrain.backbones.names import TIMM, spell_name

TABLE = "timm_models.json"


def signature(shapes: Mapping[str, Shape]) -> str:
    """Sixteen hexadecimal digits of the names and shapes, `num_batches_tracked` left out."""
    rows = sorted((name, list(shape)) for name, shape in shapes.items() if not name.endswith(COUNTER))
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


@cache
def timm_models() -> dict[str, list[list[str]]]:
    """Signature -> groups of models that have it; models of one group are the same function."""
    text = (resources.files(__package__) / TABLE).read_text(encoding="utf-8")
    table: dict[str, list[list[str]]] = json.loads(text)["signatures"]
    return table


def match_by_table(shapes: Mapping[str, Shape], told: Mapping[str, Any]) -> Match:
    """The timm model of exactly these shapes; refused where several functions have them."""
    text = f"{len(shapes)} tensors in timm's names"
    groups = timm_models().get(signature(shapes), [])
    if not groups and "conv1.0.weight" in shapes:
        reason = (
            "a deep stem (three 3x3 convolutions in place of one 7x7, as in ResNet-C and -D), and no model of "
            "timm's has these shapes"
        )
        return Match(None, text, reason=reason)
    if not groups:
        reason = (
            "no model of timm's has these shapes; where its arguments are known, give them with --arch MODEL,KEY=VALUE"
        )
        return Match(None, text, reason=reason)
    if len(groups) > 1:
        listed = " or ".join(", ".join(group) for group in groups)
        return Match(None, text, reason=f"its shapes are those of several models that compute different things; "
                     f"choose one with --arch: {listed}")  # fmt: skip
    kept = {key: value for key, value in told.items() if key in ("global_pool",)}
    name = groups[0][0]
    return Match(spell_name(name, kept) if kept else TIMM + name, f"timm's {name}, by its shapes")


# Making the table ----------------------------------------------------------------------------------------------------

# Attributes of modules that change nothing of what an evaluated model computes, or only name its usual input.
_NO_FUNCTION = frozenset((
    "training", "p", "inplace", "grad_checkpointing", "fused_attn", "drop_prob", "scale_by_keep", "num_classes",
    "drop_rate", "drop_path_rate", "in_chans", "default_cfg", "pretrained_cfg", "head_init_scale", "pos_drop_rate",
    "strict_img_size", "dynamic_img_pad", "dynamic_img_size", "weight_init", "init_values", "layer_scale_init_value",
    "head_drop", "attn_drop_rate", "drop", "feature_info", "img_size",
))  # fmt: skip


def function_of(model: Any) -> str:
    """A digest of all that a model's modules are set to: equal ones compute the same with the same weights."""
    rows = []
    for name, module in model.named_modules():
        if type(module).__name__ in ("Dropout", "DropPath"):
            continue
        values = {
            key: _plain(value)
            for key, value in vars(module).items()
            if not key.startswith("_") and key not in _NO_FUNCTION and _plain(value) is not None
        }
        rows.append((name, type(module).__name__, values))
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    import functools

    if isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    if isinstance(value, functools.partial):
        return [_plain(value.func), {key: _plain(each) for key, each in value.keywords.items()}]
    return getattr(value, "__name__", None) if callable(value) else None


def row_of(name: str) -> tuple[str, str]:
    """(signature, digest of the function) of a timm model without its classifier."""
    import timm
    import torch

    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False, num_classes=0)
    return signature({key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}), function_of(model)


def main() -> None:
    """Write the table next to this file."""
    from pathlib import Path

    import timm

    from pretrain.runtime.files import write_text

    found: dict[str, dict[str, list[str]]] = {}
    for name in timm.list_models():
        shapes, function = row_of(name)
        found.setdefault(shapes, {}).setdefault(function, []).append(name)
    table = {key: list(groups.values()) for key, groups in sorted(found.items())}
    text = json.dumps({"timm": timm.__version__, "signatures": table}, separators=(",", ":"))
    write_text(Path(__file__).parent / TABLE, text.replace('],"', '],\n"') + "\n")


if __name__ == "__main__":
    main()
