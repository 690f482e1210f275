"""Plain ViTs and BEiTs: timm's VisionTransformer and Beit."""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

from evaluate.checkpoints.architectures import Match, Shape
from evaluate.checkpoints.families.named import activation, count, named, ratio, shape_of
from evaluate.checkpoints.families.timm_table import match_by_table, signature, timm_models

Told = Mapping[str, Any]
EPS = 1e-6

DEFAULTS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "qk_norm": False,
    "proj_bias": True,
    "init_values": None,
    "class_token": True,
    "no_embed_class": False,
    "reg_tokens": 0,
    "pre_norm": False,
    "final_norm": True,
    "fc_norm": None,
    "global_pool": "token",
    "pos_embed": "learn",
    "act_layer": "gelu",
    "eps": EPS,
}
_S = {"embed_dim": 384, "num_heads": 6}
_L = {"embed_dim": 1024, "depth": 24, "num_heads": 16}
_DINO2 = {"patch_size": 14, "img_size": 518, "init_values": 1e-5}
_REG = {"reg_tokens": 4, "no_embed_class": True}
_CLIP = {"pre_norm": True, "eps": 1e-5}
_SIGLIP = {"class_token": False, "global_pool": "map"}
BASES: dict[str, dict[str, Any]] = {
    "vit_base_patch16_224": {},
    "vit_base_patch8_224": {"patch_size": 8},
    "vit_base_patch32_224": {"patch_size": 32},
    "vit_tiny_patch16_224": {"embed_dim": 192, "num_heads": 3},
    "vit_small_patch16_224": _S,
    "vit_small_patch8_224": _S | {"patch_size": 8},
    "vit_small_patch32_224": _S | {"patch_size": 32},
    "vit_large_patch16_224": _L,
    "vit_large_patch14_224": _L | {"patch_size": 14},
    "vit_huge_patch14_224": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "patch_size": 14},
    "vit_small_patch14_dinov2": _S | _DINO2,
    "vit_base_patch14_dinov2": _DINO2,
    "vit_large_patch14_dinov2": _L | _DINO2,
    "vit_small_patch14_reg4_dinov2": _S | _DINO2 | _REG,
    "vit_base_patch14_reg4_dinov2": _DINO2 | _REG,
    "vit_large_patch14_reg4_dinov2": _L | _DINO2 | _REG,
    "vit_base_patch16_clip_224": _CLIP,
    "vit_base_patch32_clip_224": _CLIP | {"patch_size": 32},
    "vit_large_patch14_clip_224": _L | _CLIP | {"patch_size": 14},
    "vit_base_patch16_clip_quickgelu_224": _CLIP | {"act_layer": "quick_gelu"},
    "vit_base_patch32_clip_quickgelu_224": _CLIP | {"patch_size": 32, "act_layer": "quick_gelu"},
    "vit_large_patch14_clip_quickgelu_224": _L | _CLIP | {"patch_size": 14, "act_layer": "quick_gelu"},
    "vit_base_patch16_siglip_224": _SIGLIP,
    "vit_large_patch16_siglip_256": _L | _SIGLIP | {"img_size": 256},
}
# The only bases whose feed-forward is a packed SwiGLU, and whose two tokens are averaged.
SWIGLU: dict[str, dict[str, Any]] = {
    "vit_giant_patch14_dinov2": {
        "patch_size": 14, "img_size": 518, "embed_dim": 1536, "depth": 40, "num_heads": 24, "init_values": 1e-5,
        "mlp_ratio": 2.66667 * 2, "act_layer": "silu",
    }
}  # fmt: skip
DISTILLED: dict[str, dict[str, Any]] = {
    "deit_base_distilled_patch16_224": {},
    "deit_small_distilled_patch16_224": _S,
    "deit_tiny_distilled_patch16_224": {"embed_dim": 192, "num_heads": 3},
}

# (width, depth) of the ViTs whose number of heads is the same in every project that has published one. Tiny and small
# are not among them: MoCo v3 and solo-learn give 12 heads to widths that have 3 and 6 elsewhere.
AGREED_HEADS = {(768, 12): 12, (1024, 24): 16, (1280, 32): 16, (1408, 40): 16, (1536, 40): 24, (1152, 27): 16}


_SMALL = ((192, 12), (384, 12))


def heads(told: Told, width: int, depth: int) -> tuple[int | None, str | None]:
    """(number of heads, None), or (None, why it is not known)."""
    said = told.get("num_heads", AGREED_HEADS.get((width, depth)))
    if said is None:
        known = {192: "3 (timm, DeiT) or 12 (MoCo v3 of solo-learn)", 384: "6 (timm, DeiT, DINO) or 12 (MoCo v3)"}
        guess = {192: 3, 384: 6}.get(width, max(width // 64, 1))
        return None, (
            f"its number of heads is in no shape and nothing beside it says it"
            f"{': ' + known[width] if width in known else ''}; give it with --arch num_heads=N, for instance "
            f"--arch num_heads={guess}"
        )
    if type(said) is not int or said < 1 or width % said:
        return None, f"num_heads is {said}; expected a whole number that divides the width {width}"
    return said, None


def match_vit(shapes: Mapping[str, Shape], told: Told) -> Match:
    """A plain ViT in timm's names."""
    patch = shape_of(shapes, "patch_embed.proj.weight", 4)
    if patch is None:
        text = "ViT without a single patch convolution (a convolutional stem)"
        return Match(None, text, reason="a stem of its own, which no backbone here has")
    width, _, patch_height, size = patch
    depth = count(shapes, r"blocks\.(\d+)\.")
    text = f"ViT of {depth} blocks, width {width}, {patch_height}x{size} patches"
    if patch_height != size or patch[1] != 3:
        return Match(None, text, reason=f"a patch convolution of shape {patch}: no backbone here has one")
    last = shape_of(shapes, f"blocks.{depth - 1}.norm1.weight", 1)
    if last is not None and last != (width,):
        return match_by_table(shapes, told)  # blocks that widen, as in Hiera
    first = shape_of(shapes, "blocks.0.mlp.fc1.weight", 2)
    second = shape_of(shapes, "blocks.0.mlp.fc2.weight", 2)
    if first is None or second is None:
        return Match(None, text, reason="its first block has no feed-forward of two linear layers")
    gated = first[0] == 2 * second[1]
    distilled = "dist_token" in shapes
    registers = (shape_of(shapes, "reg_token", 3) or (1, 0, width))[1]
    prefix = ("cls_token" in shapes) + registers + distilled
    grid, in_positions, positions = _grid(shapes, prefix, told, size)
    if grid is None:
        return Match(None, text, reason=f"its positions {shapes.get('pos_embed')} are no square of patches")
    text += f", {grid * size} px positions" if positions else ""
    same = timm_models().get(signature(shapes), [])
    if len(same) > 1 and not {"act_layer", "eps", "global_pool"} & set(told):
        return match_by_table(shapes, told)
    # Layer scale is no part of MoCo v3's ViTs: with it, every project has heads of 64.
    scaled = {"num_heads": width // 64} if "blocks.0.ls1.gamma" in shapes and (width, depth) in _SMALL else {}
    number, unknown = heads({**scaled, **told}, width, depth)
    if number is None and "num_heads" not in told and (width, depth) not in _SMALL and len(same) == 1:
        return match_by_table(shapes, told)
    # A gate has its own activation, whatever the tables beside it call that of ungated layers.
    act = "silu" if gated else activation(told, None if "norm_pre.weight" in shapes else "gelu")
    if unknown is None and act is None:
        said = told.get("act_layer")
        unknown = (
            "its activation is in no shape and nothing beside it says it: OpenAI's CLIP has quick_gelu, most of "
            "open_clip's have gelu; give it with --arch act_layer=quick_gelu or --arch act_layer=gelu"
            if said is None
            else f"act_layer is '{said}', which no backbone here has"
        )
    pool, fc_norm, final = _pooling(shapes, told)
    wanted: dict[str, Any] = {
        "img_size": grid * size,
        "patch_size": size,
        "embed_dim": width,
        "depth": depth,
        "num_heads": number,
        "mlp_ratio": ratio(first[0], width),
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
        "qk_norm": "blocks.0.attn.q_norm.weight" in shapes,
        "proj_bias": "blocks.0.attn.proj.bias" in shapes,
        "init_values": 1e-5 if "blocks.0.ls1.gamma" in shapes else None,
        "class_token": "cls_token" in shapes,
        "no_embed_class": prefix > 0 and not in_positions,
        "reg_tokens": registers,
        "pre_norm": "norm_pre.weight" in shapes,
        "final_norm": final,
        "fc_norm": fc_norm,
        "global_pool": pool,
        "pos_embed": "learn" if positions else "none",
        "act_layer": act,
        "eps": told.get("eps", 1e-5 if "norm_pre.weight" in shapes else EPS),
    }
    if unknown is not None:
        return Match(None, text, reason=unknown)
    bases = SWIGLU if gated else DISTILLED if distilled else BASES
    return named(text, wanted, bases, DEFAULTS)


def _grid(shapes: Mapping[str, Shape], prefix: int, told: Told, size: int) -> tuple[int | None, bool, bool]:
    """(patches a side, whether class and registers have positions, whether there are positions)."""
    positions = shape_of(shapes, "pos_embed", 3)
    if positions is None:
        side = told.get("img_size", 224)
        return (side // size if isinstance(side, int) else None), True, False
    length = positions[1]
    for rest, in_positions in ((length - prefix, True), (length, False)):
        if rest > 0 and isqrt(rest) ** 2 == rest:
            return isqrt(rest), in_positions, True
    return None, True, True


def _pooling(shapes: Mapping[str, Shape], told: Told) -> tuple[str, bool | None, bool]:
    """(global_pool, fc_norm, final_norm) of timm's model."""
    after, before = "fc_norm.weight" in shapes, "norm.weight" in shapes
    if "attn_pool.latent" in shapes:
        return "map", None, before
    default = "avg" if after or "cls_token" not in shapes else "token"
    pool = told.get("global_pool", default)
    # None lets timm norm what is averaged after averaging, and a token before it is taken.
    usual = (pool != "token") == after and (before or after)
    return pool, (None if usual else after), before or after


# BEiT ----------------------------------------------------------------------------------------------------------------

BEIT_DEFAULTS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "embed_dim": 768,
    "depth": 12,
    "num_heads": 12,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "init_values": None,
    "use_abs_pos_emb": True,
    "use_rel_pos_bias": False,
    "use_shared_rel_pos_bias": False,
    "global_pool": "avg",
    "use_fc_norm": None,
    "eps": EPS,
    "last_norm": True,
}
_BEIT = {"use_abs_pos_emb": False, "use_rel_pos_bias": True}
BEIT_BASES: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": _BEIT | {"init_values": 0.1},
    "beit_large_patch16_224": _BEIT | _L | {"init_values": 1e-5},
}


def match_beit(shapes: Mapping[str, Shape], told: Told) -> Match:
    """A ViT with q and v biases and layer scale, with relative positions or without: BEiT, data2vec."""
    patch = shape_of(shapes, "patch_embed.proj.weight", 4)
    first = shape_of(shapes, "blocks.0.mlp.fc1.weight", 2)
    if patch is None or first is None:
        return Match(None, "BEiT", reason="it has no patch convolution or no feed-forward of two linear layers")
    width, size, depth = patch[0], patch[2], count(shapes, r"blocks\.(\d+)\.")
    text = f"BEiT of {depth} blocks, width {width}, {size}x{size} patches"
    own = shape_of(shapes, "blocks.0.attn.relative_position_bias_table", 2)
    shared = shape_of(shapes, "rel_pos_bias.relative_position_bias_table", 2)
    absolute = shape_of(shapes, "pos_embed", 3)
    table = own or shared
    second = shape_of(shapes, "blocks.0.mlp.fc2.weight", 2)
    rotary = table is None and told.get("use_rot_pos_emb") is not False
    if second is None or second[1] != first[0] or rotary:
        # A gate, or positions that may be rotary besides: EVA and EVA-02, of which timm's own models are known.
        return match_by_table(shapes, told)
    if table is not None:
        # (2 g - 1)^2 differences of positions between g x g patches, and three for the class token
        grid = (isqrt(max(table[0] - 3, 0)) + 1) // 2
    elif absolute is not None:
        grid = isqrt(max(absolute[1] - 1, 0))
    else:
        side = told.get("img_size", 224)
        grid = side // size if isinstance(side, int) else 0
    number, unknown = (table[1], None) if table is not None else heads(told, width, depth)
    if unknown is None and activation(told) != "gelu":
        unknown = f"act_layer is '{told.get('act_layer')}', and timm's BEiT has gelu"
    if unknown is None and table is not None and told.get("num_heads", number) != number:
        unknown = f"num_heads is {told['num_heads']}, but its positions are for {number} heads"
    if unknown is not None or not grid:
        return Match(None, text, reason=unknown or "its positions are no square of patches")
    after, before = "fc_norm.weight" in shapes, "norm.weight" in shapes
    pool = told.get("global_pool", "avg")
    wanted: dict[str, Any] = {
        "img_size": grid * size,
        "patch_size": size,
        "embed_dim": width,
        "depth": depth,
        "num_heads": number,
        "mlp_ratio": ratio(first[0], width),
        "qkv_bias": "blocks.0.attn.q_bias" in shapes,
        # The value is where training starts: it is kept as the base has it.
        "init_values": (1e-5 if depth > 12 else 0.1) if "blocks.0.gamma_1" in shapes else None,
        "use_abs_pos_emb": absolute is not None,
        "use_rel_pos_bias": own is not None,
        "use_shared_rel_pos_bias": shared is not None,
        "global_pool": pool,
        "use_fc_norm": None if (pool == "avg") == after or not (before or after) else after,
        "eps": told.get("eps", EPS),
        "last_norm": before or after,
    }
    return named(text, wanted, BEIT_BASES, BEIT_DEFAULTS)
