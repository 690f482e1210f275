"""ViTs with rotary positions in DINOv3's manner: timm's Eva. Others of that class are looked up by their shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluate.checkpoints.architectures import Match, Shape
from evaluate.checkpoints.families.named import activation, count, named, ratio, shape_of
from evaluate.checkpoints.families.timm_table import match_by_table
from evaluate.checkpoints.families.vit import heads

DEFAULTS: dict[str, Any] = {
    "img_size": 256,
    "patch_size": 16,
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "swiglu_mlp": False,
    "swiglu_align_to": 0,
    "init_values": 1e-5,
    "num_reg_tokens": 4,
    "rope_temperature": 100,
    "global_pool": "avg",
    "eps": 1e-5,
}
BASES: dict[str, dict[str, Any]] = {
    "vit_base_patch16_dinov3_qkvb": {},
    "vit_base_patch16_dinov3": {"qkv_bias": False},
    "vit_small_patch16_dinov3_qkvb": {"embed_dim": 384, "num_heads": 6},
    "vit_small_patch16_dinov3": {"embed_dim": 384, "num_heads": 6, "qkv_bias": False},
    "vit_large_patch16_dinov3_qkvb": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "vit_large_patch16_dinov3": {"embed_dim": 1024, "depth": 24, "num_heads": 16, "qkv_bias": False},
}


def match_eva(shapes: Mapping[str, Shape], told: Mapping[str, Any]) -> Match:
    """A DINOv3 ViT; anything else of timm's Eva by the table of its models."""
    patch = shape_of(shapes, "patch_embed.proj.weight", 4)
    registers = shape_of(shapes, "reg_token", 3)
    first = shape_of(shapes, "blocks.0.mlp.fc1.weight", 2) or shape_of(shapes, "blocks.0.mlp.fc1_g.weight", 2)
    if patch is None or registers is None or first is None or "pos_embed" in shapes or "eps" not in told:
        return match_by_table(shapes, told)
    width, size, depth = patch[0], patch[2], count(shapes, r"blocks\.(\d+)\.")
    gated = "blocks.0.mlp.fc1_g.weight" in shapes
    text = f"ViT with rotary positions, {depth} blocks, width {width}, {size}x{size} patches"
    # Every width of DINOv3 has heads of 64, or of 128 in the 7B model, whose width no other has.
    number, unknown = heads({"num_heads": 6, **told} if (width, depth) == (384, 12) else told, width, depth)
    if unknown is None and activation(told, "gelu") != ("silu" if gated and "act_layer" in told else "gelu"):
        unknown = f"act_layer is '{told.get('act_layer')}', which timm's model of this shape does not have"
    if unknown is not None:
        return Match(None, text, reason=unknown)
    side = told.get("img_size", 256 if size == 16 else 16 * size)
    wanted: dict[str, Any] = {
        "img_size": side,
        "patch_size": size,
        "embed_dim": width,
        "depth": depth,
        "num_heads": number,
        "mlp_ratio": ratio(first[0], width),
        "qkv_bias": "blocks.0.attn.q_bias" in shapes,
        "swiglu_mlp": gated,
        "swiglu_align_to": int(gated),  # above 0 timm keeps the gate's layer apart
        "init_values": 1e-5 if "blocks.0.gamma_1" in shapes else None,
        "num_reg_tokens": registers[1],
        "rope_temperature": int(told.get("rope_temperature", 100)),
        "global_pool": told.get("global_pool", "avg"),
        "eps": told.get("eps", 1e-5),
    }
    return named(text, wanted, BASES, DEFAULTS)
