"""ConvNeXt, v1 and v2: shapes tell all of it but the epsilons."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluate.checkpoints.architectures import Match, Shape
from evaluate.checkpoints.families.named import activation, count, named, shape_of
from evaluate.checkpoints.families.timm_table import match_by_table

DEFAULTS: dict[str, Any] = {
    "depths": [3, 3, 9, 3],
    "dims": [96, 192, 384, 768],
    "kernel_sizes": 7,
    "patch_size": 4,
    "ls_init_value": 1e-6,
    "use_grn": False,
    "conv_mlp": False,
    "act_layer": "gelu",
    "eps": 1e-6,
    "last_eps": None,
}


def _size(depths: list[int], width: int, **more: Any) -> dict[str, Any]:
    return {"depths": depths, "dims": [width * 2**stage for stage in range(len(depths))], **more}


_V2 = {"use_grn": True, "ls_init_value": None}
BASES: dict[str, dict[str, Any]] = {
    "convnext_tiny": {},
    "convnext_small": _size([3, 3, 27, 3], 96),
    "convnext_base": _size([3, 3, 27, 3], 128),
    "convnext_large": _size([3, 3, 27, 3], 192),
    "convnext_xlarge": _size([3, 3, 27, 3], 256),
    "convnext_atto": _size([2, 2, 6, 2], 40, conv_mlp=True),
    "convnext_femto": _size([2, 2, 6, 2], 48, conv_mlp=True),
    "convnext_pico": _size([2, 2, 6, 2], 64, conv_mlp=True),
    "convnext_nano": _size([2, 2, 8, 2], 80, conv_mlp=True),
    "convnextv2_atto": _size([2, 2, 6, 2], 40, conv_mlp=True, **_V2),
    "convnextv2_femto": _size([2, 2, 6, 2], 48, conv_mlp=True, **_V2),
    "convnextv2_pico": _size([2, 2, 6, 2], 64, conv_mlp=True, **_V2),
    "convnextv2_nano": _size([2, 2, 8, 2], 80, conv_mlp=True, **_V2),
    "convnextv2_tiny": _V2,
    "convnextv2_base": _size([3, 3, 27, 3], 128, **_V2),
    "convnextv2_large": _size([3, 3, 27, 3], 192, **_V2),
    "convnextv2_huge": _size([3, 3, 27, 3], 352, **_V2),
}


def match_convnext(shapes: Mapping[str, Shape], told: Mapping[str, Any]) -> Match:
    """A ConvNeXt in timm's names; one with another stem by the table of timm's models."""
    stem = shape_of(shapes, "stem.0.weight", 4)
    stages = count(shapes, r"stages\.(\d+)\.")
    depths = [count(shapes, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)]
    blocks = [shape_of(shapes, f"stages.{stage}.blocks.0.conv_dw.weight", 4) for stage in range(stages)]
    mlp = shapes.get("stages.0.blocks.0.mlp.fc1.weight", ())
    plain = stem is not None and stem[2] == stem[3] and "stem.1.weight" in shapes and "head.norm.weight" in shapes
    if stem is None or not plain or stages != 4 or None in blocks:
        return match_by_table(shapes, told)
    dims = [block[0] for block in blocks if block is not None]
    kernels = [block[2] for block in blocks if block is not None]
    grn = "stages.0.blocks.0.mlp.grn.weight" in shapes
    text = f"ConvNeXt{' v2' if grn else ''} of blocks {depths}, widths {dims}"
    if stem[1] != 3:
        return Match(None, text, reason=f"a stem of {stem[1]} channels does not take RGB images")
    act = activation(told)
    if act is None:
        return Match(None, text, reason=f"act_layer is '{told.get('act_layer')}', which no backbone here has")
    wanted: dict[str, Any] = {
        "depths": depths,
        "dims": dims,
        "kernel_sizes": kernels[0] if len(set(kernels)) == 1 else kernels,
        "patch_size": stem[2],
        "ls_init_value": 1e-6 if "stages.0.blocks.0.gamma" in shapes else None,
        "use_grn": grn,
        "conv_mlp": len(mlp) == 4,
        "act_layer": act,
        "eps": told.get("eps", 1e-6),
        "last_eps": told.get("last_eps"),
    }
    if wanted["last_eps"] in (None, wanted["eps"]):
        wanted["last_eps"] = None
    return named(text, wanted, BASES, DEFAULTS)
