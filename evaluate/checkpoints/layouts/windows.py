"""Spellings of Swin, v1 and v2: each name in timm's, which puts the merging of patches before a stage."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np

from evaluate.checkpoints.layouts.spelling import Layout, Tensors, one_qkv, split_bias, table
from evaluate.checkpoints.tensors import StoredTensor, made

_BUFFERS = (r".*(relative_position_index|relative_coords_table|attn_mask|attn\.k_bias)", None)
_KEEP = r"(patch_embed|layers|norm|absolute_pos_embed)(\.|$)"
_TIMM = table(_BUFFERS, (r"mask_token", None), keep=_KEEP)
# microsoft/Swin-Transformer and what grew from it (EsViT, MoBY, SimMIM): merging stands at the end of a stage.
_MICROSOFT = table(
    _BUFFERS,
    (r"mask_token", None),
    (r"layers\.(\d+)\.downsample\.(.*)", r"layers.{1+1}.downsample.\2"),
    keep=_KEEP,
)

_BLOCK = r"encoder\.layers\.(\d+)\.blocks\.(\d+)\."
_HUGGINGFACE = table(
    _BUFFERS,
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"embeddings\.norm\.(\w+)", r"patch_embed.norm.\1"),
    (r"embeddings\.mask_token", None),
    (r"embeddings\.position_embeddings", "absolute_pos_embed"),
    *(
        (_BLOCK + rf"attention\.self\.{word}\.(\w+)", rf"layers.\1.blocks.\2.attn.{word[0]}.\3")
        for word in ("query", "key", "value")
    ),
    (_BLOCK + r"attention\.self\.(relative_position_bias_table|logit_scale)", r"layers.\1.blocks.\2.attn.\3"),
    (_BLOCK + r"attention\.self\.continuous_position_bias_mlp\.(.*)", r"layers.\1.blocks.\2.attn.cpb_mlp.\3"),
    (_BLOCK + r"attention\.output\.dense\.(\w+)", r"layers.\1.blocks.\2.attn.proj.\3"),
    (_BLOCK + r"intermediate\.dense\.(\w+)", r"layers.\1.blocks.\2.mlp.fc1.\3"),
    (_BLOCK + r"output\.dense\.(\w+)", r"layers.\1.blocks.\2.mlp.fc2.\3"),
    (_BLOCK + r"layernorm_before\.(\w+)", r"layers.\1.blocks.\2.norm1.\3"),
    (_BLOCK + r"layernorm_after\.(\w+)", r"layers.\1.blocks.\2.norm2.\3"),
    (r"encoder\.layers\.(\d+)\.downsample\.(.*)", r"layers.{1+1}.downsample.\2"),
    (r"layernorm\.(\w+)", r"norm.\1"),
    keep=r"(embeddings|encoder)\.",
)

_MMPRETRAIN = table(
    _BUFFERS,
    (r"patch_embed\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"patch_embed\.norm\.(\w+)", r"patch_embed.norm.\1"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.attn\.w_msa\.(.*)", r"layers.\1.blocks.\2.attn.\3"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.ffn\.layers\.0\.0\.(\w+)", r"layers.\1.blocks.\2.mlp.fc1.\3"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.ffn\.layers\.1\.(\w+)", r"layers.\1.blocks.\2.mlp.fc2.\3"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.(norm[12]\.\w+)", r"layers.\1.blocks.\2.\3"),
    (r"stages\.(\d+)\.downsample\.(.*)", r"layers.{1+1}.downsample.\2"),
    (r"norm3\.(\w+)", r"norm.\1"),
    (r"norm[012]\.\w+", None),  # mmsegmentation puts a norm on each map for its heads
    keep=r"(patch_embed|stages)\.",
)


def unfolded(tensors: Tensors) -> Tensors:
    """mmcv merges patches by nn.Unfold: channel by channel, rows first; Swin's own goes neighbour by neighbour."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        if name.endswith(("downsample.reduction.weight", "downsample.norm.weight", "downsample.norm.bias")):
            out[name] = made(tensor.dtype, tensor.shape, partial(_merged, tensor), tensor)
        else:
            out[name] = tensor
    return out


def _merged(tensor: StoredTensor) -> Any:
    return merging_order(tensor.array())


def merging_order(array: Any) -> Any:
    """(..., C x 4) in nn.Unfold's order -> (..., 4 x C) in Swin's, whose neighbours go down before right."""
    *rest, width = array.shape
    apart = array.reshape(*rest, width // 4, 4)[..., [0, 2, 1, 3]]
    return np.swapaxes(apart, -1, -2).reshape(*rest, width)


def _torchvision(name: str) -> str | None:
    if name.endswith(("relative_position_index", "relative_coords_table")):
        return None
    if found := re.fullmatch(r"features\.0\.([02])\.(\w+)", name):
        return f"patch_embed.{'proj' if found[1] == '0' else 'norm'}.{found[2]}"
    if found := re.fullmatch(r"features\.(\d+)\.(\d+)\.(.+)", name):
        rest = re.sub(r"^mlp\.([03])\.", lambda m: f"mlp.fc{'1' if m[1] == '0' else '2'}.", found[3])
        return f"layers.{(int(found[1]) - 1) // 2}.blocks.{found[2]}.{rest}"
    if found := re.fullmatch(r"features\.(\d+)\.(norm|reduction)\.(\w+)", name):
        return f"layers.{int(found[1]) // 2}.downsample.{found[2]}.{found[3]}"
    if found := re.fullmatch(r"norm\.(\w+)", name):
        return name
    return name if name.startswith("features.") else None


def _window(tensors: Tensors) -> dict[str, Any]:
    """Swin v2's window is in no parameter; where the file keeps its tables of positions, they tell it."""
    for name, tensor in tensors.items():
        if name.endswith("relative_coords_table") and len(tensor.shape) == 4:
            return {"window_size": (tensor.shape[1] + 1) // 2}
        if name.endswith("relative_position_index"):
            return {"window_size": round(tensor.numel**0.25)}
    return {}


_ANCHORS = ("patch_embed.proj.weight", "layers.0.blocks.0.attn.qkv.weight")
_MERGED, _V2 = "layers.0.downsample.reduction.weight", "layers.0.blocks.0.attn.logit_scale"
_HF = ("embeddings.patch_embeddings.projection.weight", "encoder.layers.0.blocks.0.attention.self.query.weight")
_HF_V2 = "encoder.layers.0.blocks.0.attention.self.logit_scale"
_TV, _TV_V2 = ("features.0.0.weight", "features.1.0.attn.qkv.weight"), "features.1.0.attn.logit_scale"
SWINS: tuple[Layout, ...] = (
    Layout("swin", _ANCHORS, _TIMM, kind="swin", unless=(_MERGED, _V2)),
    Layout("swin, microsoft", (*_ANCHORS, _MERGED), _MICROSOFT, kind="swin", unless=(_V2,)),
    Layout("swin v2", (*_ANCHORS, _V2), _TIMM, kind="swinv2", unless=(_MERGED,), read=_window),
    Layout("swin v2, microsoft", (*_ANCHORS, _MERGED, _V2), _MICROSOFT, kind="swinv2", read=_window),
    Layout("huggingface swin", _HF, _HUGGINGFACE, kind="swin", unless=(_HF_V2,), assemble=one_qkv),
    Layout("huggingface swin v2", (*_HF, _HF_V2), _HUGGINGFACE, kind="swinv2", assemble=one_qkv),
    Layout("torchvision swin", _TV, _torchvision, kind="swin", unless=(_TV_V2,)),
    Layout("torchvision swin v2", (*_TV, _TV_V2), _torchvision, kind="swinv2", assemble=split_bias, read=_window),
    Layout(
        "mmpretrain swin",
        ("patch_embed.projection.weight", "stages.0.blocks.0.attn.w_msa.qkv.weight"),
        _MMPRETRAIN,
        kind="swin",
        unless=("stages.0.blocks.0.attn.w_msa.logit_scale",),
        assemble=unfolded,
    ),
)
