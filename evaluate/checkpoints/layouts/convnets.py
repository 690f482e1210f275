"""Spellings of ConvNeXt, v1 and v2: each name in timm's."""

from __future__ import annotations

import re

from evaluate.checkpoints.layouts.spelling import Layout, Tensors, flat, table

# timm's own.
_TIMM = table(keep=r"(stem|stages|norm_pre|head\.norm)(\.|$)")

# facebookresearch/ConvNeXt (SparK's ConvNeXts too), ConvNeXt-V2 and DINOv3's students.
_META = table(
    (r"downsample_layers\.0\.(\d)\.(\w+)", r"stem.\1.\2"),
    (r"downsample_layers\.(\d+)\.(\d)\.(\w+)", r"stages.\1.downsample.\2.\3"),
    (r"stages\.(\d+)\.(\d+)\.dwconv\.(\w+)", r"stages.\1.blocks.\2.conv_dw.\3"),
    (r"stages\.(\d+)\.(\d+)\.norm\.(\w+)", r"stages.\1.blocks.\2.norm.\3"),
    (r"stages\.(\d+)\.(\d+)\.pwconv([12])\.(\w+)", r"stages.\1.blocks.\2.mlp.fc\3.\4"),
    (r"stages\.(\d+)\.(\d+)\.gamma", r"stages.\1.blocks.\2.gamma"),
    (r"stages\.(\d+)\.(\d+)\.grn\.gamma", r"stages.\1.blocks.\2.mlp.grn.weight"),
    (r"stages\.(\d+)\.(\d+)\.grn\.beta", r"stages.\1.blocks.\2.mlp.grn.bias"),
    (r"norm\.(\w+)", r"head.norm.\1"),
    (r"norms\.\d+\..*", None),  # DINOv3's students repeat the last norm here
    keep=r"(downsample_layers|stages)\.",
)

_BLOCK = r"encoder\.stages\.(\d+)\.layers\.(\d+)\."
_HUGGINGFACE = table(
    (r"embeddings\.patch_embeddings\.(\w+)", r"stem.0.\1"),
    (r"embeddings\.layernorm\.(\w+)", r"stem.1.\1"),
    (r"encoder\.stages\.(\d+)\.downsampling_layer\.(\d)\.(\w+)", r"stages.\1.downsample.\2.\3"),
    (_BLOCK + r"dwconv\.(\w+)", r"stages.\1.blocks.\2.conv_dw.\3"),
    (_BLOCK + r"layernorm\.(\w+)", r"stages.\1.blocks.\2.norm.\3"),
    (_BLOCK + r"pwconv([12])\.(\w+)", r"stages.\1.blocks.\2.mlp.fc\3.\4"),
    (_BLOCK + r"layer_scale_parameter", r"stages.\1.blocks.\2.gamma"),
    (_BLOCK + r"grn\.(\w+)", r"stages.\1.blocks.\2.mlp.grn.\3"),
    (r"layernorm\.(\w+)", r"head.norm.\1"),
    keep=r"(embeddings|encoder)\.",
)

_DINOV3 = r"(?:model\.)?stages\.(\d+)\.layers\.(\d+)\."
_HUGGINGFACE_DINOV3 = table(
    (r"(?:model\.)?stages\.0\.downsample_layers\.(\d)\.(\w+)", r"stem.\1.\2"),
    (r"(?:model\.)?stages\.(\d+)\.downsample_layers\.(\d)\.(\w+)", r"stages.\1.downsample.\2.\3"),
    (_DINOV3 + r"depthwise_conv\.(\w+)", r"stages.\1.blocks.\2.conv_dw.\3"),
    (_DINOV3 + r"layer_norm\.(\w+)", r"stages.\1.blocks.\2.norm.\3"),
    (_DINOV3 + r"pointwise_conv([12])\.(\w+)", r"stages.\1.blocks.\2.mlp.fc\3.\4"),
    (_DINOV3 + r"gamma", r"stages.\1.blocks.\2.gamma"),
    (r"layer_norm\.(\w+)", r"head.norm.\1"),
    keep=r"(model\.)?stages\.",
)

_MMPRETRAIN = table(
    (r"downsample_layers\.0\.(\d)\.(\w+)", r"stem.\1.\2"),
    (r"downsample_layers\.(\d+)\.(\d)\.(\w+)", r"stages.\1.downsample.\2.\3"),
    (r"stages\.(\d+)\.(\d+)\.depthwise_conv\.(\w+)", r"stages.\1.blocks.\2.conv_dw.\3"),
    (r"stages\.(\d+)\.(\d+)\.norm\.(\w+)", r"stages.\1.blocks.\2.norm.\3"),
    (r"stages\.(\d+)\.(\d+)\.pointwise_conv([12])\.(\w+)", r"stages.\1.blocks.\2.mlp.fc\3.\4"),
    (r"stages\.(\d+)\.(\d+)\.gamma", r"stages.\1.blocks.\2.gamma"),
    (r"stages\.(\d+)\.(\d+)\.grn\.gamma", r"stages.\1.blocks.\2.mlp.grn.weight"),
    (r"stages\.(\d+)\.(\d+)\.grn\.beta", r"stages.\1.blocks.\2.mlp.grn.bias"),
    (r"norm3\.(\w+)", r"head.norm.\1"),
    keep=r"(downsample_layers|stages)\.",
)


def _torchvision(name: str) -> str | None:
    # features: stem, then stages (odd) and what is between them (even).
    if found := re.fullmatch(r"features\.0\.(\d)\.(\w+)", name):
        return f"stem.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"features\.(\d+)\.(\d+)\.block\.([0235])\.(\w+)", name):
        part = {"0": "conv_dw", "2": "norm", "3": "mlp.fc1", "5": "mlp.fc2"}[found[3]]
        return f"stages.{(int(found[1]) - 1) // 2}.blocks.{found[2]}.{part}.{found[4]}"
    if found := re.fullmatch(r"features\.(\d+)\.(\d+)\.layer_scale", name):
        return f"stages.{(int(found[1]) - 1) // 2}.blocks.{found[2]}.gamma"
    if found := re.fullmatch(r"features\.(\d+)\.(\d)\.(\w+)", name):
        return f"stages.{int(found[1]) // 2}.downsample.{found[2]}.{found[3]}"
    if found := re.fullmatch(r"classifier\.0\.(\w+)", name):
        return f"head.norm.{found[1]}"
    return name if name.startswith("features.") else None


def _plain(tensors: Tensors) -> Tensors:
    return flat(("grn.weight", "grn.bias", ".gamma"))(tensors)


CONVNEXTS: tuple[Layout, ...] = (
    Layout("convnext", ("stem.0.weight", "stages.0.blocks.0.conv_dw.weight"), _TIMM, kind="convnext", assemble=_plain),
    Layout(
        "convnext, meta",
        ("downsample_layers.0.0.weight", "stages.0.0.dwconv.weight"),
        _META,
        kind="convnext",
        assemble=_plain,
        facts={"eps": 1e-6},
    ),
    Layout(
        "huggingface convnext",
        ("embeddings.patch_embeddings.weight", "encoder.stages.0.layers.0.dwconv.weight"),
        _HUGGINGFACE,
        kind="convnext",
        assemble=_plain,
    ),
    Layout(
        "huggingface dinov3 convnext",
        ("stages.0.downsample_layers.0.weight", "stages.0.layers.0.depthwise_conv.weight"),
        _HUGGINGFACE_DINOV3,
        kind="convnext",
        assemble=_plain,
    ),
    Layout(
        "torchvision convnext",
        ("features.0.0.weight", "features.1.0.block.0.weight", "features.1.0.layer_scale"),
        _torchvision,
        kind="convnext",
        assemble=_plain,
        facts={"eps": 1e-6},
    ),
    Layout(
        "mmpretrain convnext",
        ("downsample_layers.0.0.weight", "stages.0.0.depthwise_conv.weight"),
        _MMPRETRAIN,
        kind="convnext",
        assemble=_plain,
        facts={"eps": 1e-6},
    ),
)
