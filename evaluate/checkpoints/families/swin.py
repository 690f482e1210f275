"""Swin v1, whose shapes tell heads and windows, and v2, whose windows no shape tells."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

from evaluate.checkpoints.architectures import Match, Shape
from evaluate.checkpoints.families.named import activation, count, named, ratio, shape_of
from evaluate.checkpoints.families.timm_table import match_by_table

Told = Mapping[str, Any]
DEFAULTS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 4,
    "embed_dim": 96,
    "depths": [2, 2, 6, 2],
    "num_heads": [3, 6, 12, 24],
    "window_size": 7,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "eps": 1e-5,
}
_B = {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32]}
_L = {"embed_dim": 192, "depths": [2, 2, 18, 2], "num_heads": [6, 12, 24, 48]}
BASES: dict[str, dict[str, Any]] = {
    "swin_tiny_patch4_window7_224": {},
    "swin_small_patch4_window7_224": {"depths": [2, 2, 18, 2]},
    "swin_base_patch4_window7_224": _B,
    "swin_large_patch4_window7_224": _L,
    "swin_base_patch4_window12_384": _B | {"window_size": 12, "img_size": 384},
    "swin_large_patch4_window12_384": _L | {"window_size": 12, "img_size": 384},
}
V2_DEFAULTS = DEFAULTS | {
    "img_size": 256,
    "window_size": 8,
    "pretrained_window_sizes": [0, 0, 0, 0],
    "act_layer": "gelu",
}
V2_BASES: dict[str, dict[str, Any]] = {
    "swinv2_tiny_window8_256": {},
    "swinv2_tiny_window16_256": {"window_size": 16},
    "swinv2_small_window8_256": {"depths": [2, 2, 18, 2]},
    "swinv2_small_window16_256": {"depths": [2, 2, 18, 2], "window_size": 16},
    "swinv2_base_window8_256": _B,
    "swinv2_base_window16_256": _B | {"window_size": 16},
}


def match_swin(shapes: Mapping[str, Shape], told: Told) -> Match:
    """A Swin v1 in timm's names."""
    return _match(shapes, told, "relative_position_bias_table", BASES, DEFAULTS)


def match_swin_v2(shapes: Mapping[str, Shape], told: Told) -> Match:
    """A Swin v2 in timm's names; its window must be told."""
    return _match(shapes, told, "logit_scale", V2_BASES, V2_DEFAULTS)


def _match(
    shapes: Mapping[str, Shape], told: Told, tells_heads: str, bases: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Match:
    v2 = bases is V2_BASES
    patch = shape_of(shapes, "patch_embed.proj.weight", 4)
    stages = count(shapes, r"layers\.(\d+)\.")
    depths = [count(shapes, rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages)]
    heads = [shape_of(shapes, f"layers.{stage}.blocks.0.attn.{tells_heads}", 3 if v2 else 2) for stage in range(stages)]
    first = shape_of(shapes, "layers.0.blocks.0.mlp.fc1.weight", 2)
    if patch is None or first is None or not stages or None in heads:
        return match_by_table(shapes, told)
    width, size = patch[0], patch[2]
    numbers = [each[0] if v2 else each[1] for each in heads if each is not None]
    text = f"Swin{' v2' if v2 else ''} of blocks {depths}, width {width}, {numbers} heads"
    unless = next((name for name in ("absolute_pos_embed", "mask_token") if name in shapes), None)
    if unless is not None:
        return Match(None, text, reason=f"it holds {unless}, which no backbone here has")
    if activation(told) != "gelu" and not v2:
        return Match(None, text, reason=f"act_layer is '{told.get('act_layer')}', and timm's Swin has gelu")
    if v2:
        window = told.get("window_size")
        if type(window) is not int:
            ask = (
                "the size of its windows is in no shape and nothing beside it says it; give it with "
                "--arch window_size=N, for instance --arch window_size=8 (and pretrained_window_sizes where they were "
                "enlarged)"
            )
            return Match(None, text, reason=ask)
    else:
        # (2 w - 1)^2 differences of positions within w x w patches
        window = (isqrt(heads[0][0]) + 1) // 2 if heads[0] is not None else 0
    wanted: dict[str, Any] = {
        # The usual size has one window in the last stage; a Swin takes other sizes too.
        "img_size": told.get("img_size", window * size * 2 ** (stages - 1)),
        "patch_size": size,
        "embed_dim": width,
        "depths": depths,
        "num_heads": numbers,
        "window_size": window,
        "mlp_ratio": ratio(first[0], width),
        "qkv_bias": any(f"layers.0.blocks.0.attn.{name}" in shapes for name in ("qkv.bias", "q_bias")),
        "eps": told.get("eps", 1e-5),
    }
    if v2:
        wanted["pretrained_window_sizes"] = list(told.get("pretrained_window_sizes", [0] * stages))
        wanted["act_layer"] = activation(told)
    return named(text, wanted, bases, defaults)
