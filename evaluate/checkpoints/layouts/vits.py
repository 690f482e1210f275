"""Spellings of plain ViTs, BEiTs and ViTs with rotary positions: each name in timm's."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from evaluate.checkpoints.layouts.spelling import Layout, Tensors, one_qkv, rows, split_bias, steps, table, tokens
from evaluate.checkpoints.tensors import made

_TRUNK = (
    r"(patch_embed|blocks|norm|fc_norm|norm_pre|cls_token|dist_token|pos_embed|register_tokens|reg_token|storage_tokens"
    r"|attn_pool|rel_pos_bias|local_cls_norm)(\.|$)"
)

# timm, and the papers' own code that has its names: DINO, MoCo v3, MAE, iBOT, MSN, I-JEPA, DeiT, DINOv2, BEiT, EVA.
_TIMM = table(
    (r"(mask_token|masked_embed|head_dist\..*|rope\..*|.*relative_position_index|.*\.attn\.k_bias)", None),
    (r"(decoder_.*|norm_pix.*)", None),
    (r"(?:register_tokens|reg_token)", "reg_token"),
    (r"blocks\.\d+\.(\d+)\.(.*)", r"blocks.\1.\2"),  # DINOv2's training files keep blocks in chunks
    (r"(blocks\.\d+\.mlp\.)w12\.(weight|bias)", r"\1fc1.\2"),
    (r"(blocks\.\d+\.mlp\.)w3\.(weight|bias)", r"\1fc2.\2"),
    keep=_TRUNK,
)


def fold_class_position(tensors: Tensors) -> Tensors:
    """With registers, DINOv2 gives a position to the class token and none to the registers: timm adds it to the token.

    The sum is what the forward of either computes.
    """
    token, positions, registers = (tensors.get(name) for name in ("cls_token", "pos_embed", "reg_token"))
    if token is None or positions is None or registers is None or len(positions.shape) != 3:
        return tensors
    _, length, width = positions.shape
    side = round((length - 1) ** 0.5)
    if side * side != length - 1 or token.shape != (1, 1, width):
        return tensors
    cls, pos = token, positions
    return tensors | {
        "cls_token": made("float32", (1, 1, width), lambda: cls.float32() + pos.float32()[:, :1], cls),
        "pos_embed": made("float32", (1, length - 1, width), lambda: pos.float32()[:, 1:], pos),
    }


_DINOV3 = table(
    (r"mask_token|local_cls_norm\..*|rope_embed\.periods|.*\.attn\.qkv\.bias_mask", None),
    (r"storage_tokens", "reg_token"),
    (r"(blocks\.\d+)\.ls([12])\.gamma", r"\1.gamma_\2"),
    (r"(blocks\.\d+\.mlp\.)w1\.(weight|bias)", r"\1fc1_g.\2"),
    (r"(blocks\.\d+\.mlp\.)w2\.(weight|bias)", r"\1fc1_x.\2"),
    (r"(blocks\.\d+\.mlp\.)w3\.(weight|bias)", r"\1fc2.\2"),
    keep=_TRUNK,
)


def _dinov3_facts(tensors: Tensors) -> dict[str, Any]:
    """The periods of the rotary positions tell the width of a head: four numbers to a period, and their base."""
    periods, patch = tensors.get("rope_embed.periods"), tensors.get("patch_embed.proj.weight")
    if periods is None or patch is None or len(periods.shape) != 1 or not periods.shape[0] or len(patch.shape) != 4:
        return {}
    values = periods.float32().astype(np.float64)
    facts: dict[str, Any] = {"num_heads": patch.shape[0] // (4 * periods.shape[0])}
    if len(values) > 1 and values[0] > 0:
        # periods are base ** (i / number): the ratio of two neighbours tells the base
        facts["rope_temperature"] = round(float((values[1] / values[0]) ** len(values)), 0)
    return facts


_TORCHVISION = table(
    (r"class_token", "cls_token"),
    (r"conv_proj\.(weight|bias)", r"patch_embed.proj.\1"),
    (r"encoder\.pos_embedding", "pos_embed"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_(\w+)", r"blocks.\1.attn.qkv.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.ln\.(\w+)", r"norm.\1"),
    keep=r"encoder\.",
)

_CLIP = table(
    (r"class_embedding", "cls_token"),
    (r"positional_embedding", "pos_embed"),
    (r"conv1\.weight", "patch_embed.proj.weight"),
    (r"ln_pre\.(\w+)", r"norm_pre.\1"),
    (r"ln_post\.(\w+)", r"norm.\1"),
    (r"transformer\.resblocks\.(\d+)\.ln_([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"transformer\.resblocks\.(\d+)\.attn\.in_proj_(\w+)", r"blocks.\1.attn.qkv.\2"),
    (r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"transformer\.resblocks\.(\d+)\.ls_([12])\.gamma", r"blocks.\1.ls\2.gamma"),
    keep=r"transformer\.",
)

_MMPRETRAIN = table(
    (r"patch_embed\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"layers\.(\d+)\.(?:ln|norm)([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"layers\.(\d+)\.attn\.(qkv|proj)\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"layers\.(\d+)\.attn\.gamma1\.weight", r"blocks.\1.ls1.gamma"),
    (r"layers\.(\d+)\.ffn\.layers\.0\.0\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"layers\.(\d+)\.ffn\.layers\.1\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"layers\.(\d+)\.ffn\.gamma2\.weight", r"blocks.\1.ls2.gamma"),
    (r"(?:ln1|norm1)\.(\w+)", r"norm.\1"),
    (r"mask_token", None),
    keep=r"(cls_token|pos_embed|layers\.|patch_embed\.)",
)


def _is_beit(name: str) -> bool:
    return bool(re.search(r"attn\.(q_bias|relative_position_bias_table)$|gamma_1$", name))


_VIT = ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight")
VITS: tuple[Layout, ...] = (
    Layout(
        "vit",
        _VIT,
        _TIMM,
        kind="vit",
        unless=("storage_tokens", "rope_embed.periods", "blocks.0.gamma_1", "blocks.0.attn.q_bias",
                "blocks.0.attn.relative_position_bias_table", "blocks.0.attn.temperature"),
        assemble=fold_class_position,
    ),
    Layout(
        "vit, blocks in chunks",
        ("patch_embed.proj.weight", "blocks.0.0.attn.qkv.weight"),
        _TIMM,
        kind="vit",
        unless=("storage_tokens", "rope_embed.periods"),
        assemble=fold_class_position,
    ),
    Layout(
        "dinov3",
        (*_VIT, "storage_tokens"),
        _DINOV3,
        kind="eva",
        assemble=split_bias,
        facts={"global_pool": "token", "eps": 1e-5},
        read=_dinov3_facts,
    ),
    Layout("beit", (*_VIT, "blocks.0.attn.q_bias"), _TIMM, kind="beit", unless=("reg_token",)),
    Layout("eva", (*_VIT, "blocks.0.attn.q_bias", "reg_token"), _TIMM, kind="eva"),
    Layout("eva, no bias", (*_VIT, "blocks.0.gamma_1"), _TIMM, kind="eva",
           unless=("blocks.0.attn.q_bias", "blocks.0.attn.qkv.bias")),
    Layout(
        "torchvision vit",
        ("conv_proj.weight", "encoder.layers.encoder_layer_0.self_attention.in_proj_weight"),
        _TORCHVISION,
        kind="vit",
        facts={"eps": 1e-6},
    ),
    Layout(
        "clip",
        ("conv1.weight", "class_embedding", "transformer.resblocks.0.attn.in_proj_weight"),
        _CLIP,
        kind="vit",
        assemble=tokens,
        facts={"eps": 1e-5},
    ),
    Layout(
        "mmpretrain vit",
        ("patch_embed.projection.weight", "layers.0.attn.qkv.weight"),
        _MMPRETRAIN,
        kind="vit",
        facts={"eps": 1e-6},
    ),
)  # fmt: skip

# Hugging Face --------------------------------------------------------------------------------------------------------

_ATTENTION = r"(query|key|value)"
_BLOCK = r"encoder\.layer\.(\d+)\."
_QKV = [
    (_BLOCK + rf"attention\.attention\.{word}\.(\w+)", rf"blocks.\1.attn.{word[0]}.\2")
    for word in ("query", "key", "value")
]
_EMBEDDINGS = [
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.(?:distillation_token|register_tokens)", "reg_token"),
    (r"embeddings\.mask_token", None),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (_BLOCK + r"attention\.output\.dense\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"layernorm\.(\w+)", r"norm.\1"),
]
_HF_VIT = table(
    *_EMBEDDINGS,
    *_QKV,
    (_BLOCK + r"intermediate\.dense\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (_BLOCK + r"output\.dense\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (_BLOCK + r"layernorm_before\.(\w+)", r"blocks.\1.norm1.\2"),
    (_BLOCK + r"layernorm_after\.(\w+)", r"blocks.\1.norm2.\2"),
    (_BLOCK + r"lambda_([12])", r"blocks.\1.gamma_\2"),
    (_BLOCK + r"attention\.attention\.relative_position_bias\.(relative_position_bias_table)", r"blocks.\1.attn.\2"),
    (r"encoder\.relative_position_bias\.(relative_position_bias_table)", r"rel_pos_bias.\1"),
    (r".*relative_position_index", None),
    (r"pooler\.layernorm\.(\w+)", r"fc_norm.\1"),
    keep=r"(embeddings|encoder)\.",
)
_HF_DINOV2 = table(
    *_EMBEDDINGS,
    *_QKV,
    (_BLOCK + r"norm([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (_BLOCK + r"layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (_BLOCK + r"mlp\.(?:fc1|weights_in)\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (_BLOCK + r"mlp\.(?:fc2|weights_out)\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    keep=r"(embeddings|encoder)\.",
)
_HF_DINOV3 = table(
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.mask_token|rope_embeddings\..*", None),
    (r"embeddings\.patch_embeddings\.(\w+)", r"patch_embed.proj.\1"),
    (r"(?:model\.)?layer\.(\d+)\.attention\.([qkv])_proj\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (r"(?:model\.)?layer\.(\d+)\.attention\.o_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (r"(?:model\.)?layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.gamma_\2"),
    (r"(?:model\.)?layer\.(\d+)\.norm([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (r"(?:model\.)?layer\.(\d+)\.mlp\.gate_proj\.(\w+)", r"blocks.\1.mlp.fc1_g.\2"),
    (r"(?:model\.)?layer\.(\d+)\.mlp\.up_proj\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"(?:model\.)?layer\.(\d+)\.mlp\.down_proj\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"norm\.(\w+)", r"norm.\1"),
    keep=r"(embeddings|layer|model\.layer)\.",
)


def _gated(tensors: Tensors) -> Tensors:
    """Beside a gate, timm calls the other half `fc1_x`."""
    gated = any(".mlp.fc1_g." in name for name in tensors)
    return {name.replace(".mlp.fc1.", ".mlp.fc1_x.") if gated else name: t for name, t in tensors.items()}


_TOWER = r"encoder\.layers\.(\d+)\."
_HF_TOWER = table(
    (r"embeddings\.class_embedding", "cls_token"),
    (r"embeddings\.patch_embedding\.(\w+)", r"patch_embed.proj.\1"),
    (r"embeddings\.position_embedding\.weight", "pos_embed"),
    (r"embeddings\.position_ids", None),
    (r"pre_la?y?e?r?norm\.(\w+)|pre_layrnorm\.(\w+)", r"norm_pre.\1\2"),
    (r"post_layernorm\.(\w+)", r"norm.\1"),
    (_TOWER + r"layer_norm([12])\.(\w+)", r"blocks.\1.norm\2.\3"),
    (_TOWER + r"self_attn\.([qkv])_proj\.(\w+)", r"blocks.\1.attn.\2.\3"),
    (_TOWER + r"self_attn\.out_proj\.(\w+)", r"blocks.\1.attn.proj.\2"),
    (_TOWER + r"mlp\.(fc[12])\.(\w+)", r"blocks.\1.mlp.\2.\3"),
    (r"head\.probe", "attn_pool.latent"),
    (r"head\.attention\.in_proj_(\w+)", r"attn_pool.in_proj.\1"),
    (r"head\.attention\.out_proj\.(\w+)", r"attn_pool.proj.\1"),
    (r"head\.layernorm\.(\w+)", r"attn_pool.norm.\1"),
    (r"head\.mlp\.(fc[12])\.(\w+)", r"attn_pool.mlp.\1.\2"),
    keep=r"(embeddings|encoder)\.",
)


def _pool_in_two(tensors: Tensors) -> Tensors:
    """SigLIP's pool keeps query, key and value in one; timm's has the query apart."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        if not name.startswith("attn_pool.in_proj."):
            out[name] = tensor
            continue
        leaf, width = name.rpartition(".")[2], tensor.shape[0] // 3
        out[f"attn_pool.q.{leaf}"] = rows(tensor, 0, width)
        out[f"attn_pool.kv.{leaf}"] = rows(tensor, width, 2 * width)
    return out


_HF = "embeddings.patch_embeddings.projection.weight"
_HF_QUERY = "encoder.layer.0.attention.attention.query.weight"
HUGGINGFACE_VITS: tuple[Layout, ...] = (
    Layout(
        "huggingface vit",
        (_HF, _HF_QUERY, "encoder.layer.0.layernorm_before.weight"),
        _HF_VIT,
        kind="vit",
        unless=("encoder.layer.0.lambda_1",),
        assemble=one_qkv,
    ),
    Layout(
        "huggingface beit",
        (_HF, _HF_QUERY, "encoder.layer.0.layernorm_before.weight", "encoder.layer.0.lambda_1"),
        _HF_VIT,
        kind="beit",
        assemble=one_qkv,
    ),
    Layout(
        "huggingface dinov2",
        (_HF, _HF_QUERY, "encoder.layer.0.norm1.weight"),
        _HF_DINOV2,
        kind="vit",
        assemble=steps(one_qkv, fold_class_position),
    ),
    Layout(
        "huggingface dinov3",
        ("embeddings.patch_embeddings.weight", "layer.0.attention.q_proj.weight"),
        _HF_DINOV3,
        kind="eva",
        assemble=steps(one_qkv, _gated),
        facts={"global_pool": "token", "eps": 1e-5},
    ),
    Layout(
        "huggingface dinov3, under model",
        ("embeddings.patch_embeddings.weight", "model.layer.0.attention.q_proj.weight"),
        _HF_DINOV3,
        kind="eva",
        assemble=steps(one_qkv, _gated),
        facts={"global_pool": "token", "eps": 1e-5},
    ),
    Layout(
        "huggingface tower",
        ("embeddings.patch_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight"),
        _HF_TOWER,
        kind="vit",
        assemble=steps(one_qkv, tokens, _pool_in_two),
    ),
)
