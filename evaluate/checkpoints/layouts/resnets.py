"""Spellings of ResNets: each name in torchvision's."""

from __future__ import annotations

import re

from evaluate.checkpoints.layouts.spelling import Layout, Rename

_TRUNK = re.compile(r"(conv\d*|bn\d*|layer\d+|stem|maxpool)(\.|$)")


def _torchvision(name: str) -> str | None:
    if not _TRUNK.match(name):
        return None
    return re.sub(r"^(layer\d+\.\d+)\.shortcut\.", r"\1.downsample.", name)


def _numbered(first_stage: int) -> Rename:
    # nn.Sequential(*resnet.children()): conv1, bn1, relu, (maxpool,) layer1 to layer4.
    table = {"0": "conv1", "1": "bn1"} | {str(first_stage + i): f"layer{i + 1}" for i in range(4)}

    def rename(name: str) -> str | None:
        head, _, rest = name.partition(".")
        return f"{table[head]}.{rest}" if head in table else None

    return rename


_HF_PARTS = {"convolution": "conv", "normalization": "bn"}


def _huggingface(name: str) -> str | None:
    if found := re.fullmatch(r"embedder\.embedder\.(convolution|normalization)\.(\w+)", name):
        return f"{_HF_PARTS[found[1]]}1.{found[2]}"
    block = r"encoder\.stages\.(\d+)\.layers\.(\d+)\."
    if found := re.fullmatch(block + r"layer\.(\d+)\.(convolution|normalization)\.(\w+)", name):
        return f"layer{int(found[1]) + 1}.{found[2]}.{_HF_PARTS[found[4]]}{int(found[3]) + 1}.{found[5]}"
    if found := re.fullmatch(block + r"shortcut\.(convolution|normalization)\.(\w+)", name):
        part = 0 if found[3] == "convolution" else 1
        return f"layer{int(found[1]) + 1}.{found[2]}.downsample.{part}.{found[4]}"
    return name if name.startswith(("embedder.", "encoder.")) else None


def _detectron2(name: str) -> str | None:
    if not re.match(r"(stem|res\d+)\.", name):
        return None
    name = re.sub(r"^stem\.conv1\.norm\.", "bn1.", name)
    name = re.sub(r"^stem\.conv1\.", "conv1.", name)
    name = re.sub(r"^res(\d+)\.", lambda m: f"layer{int(m[1]) - 1}.", name)
    name = re.sub(r"\.conv(\d)\.norm\.", r".bn\1.", name)
    name = re.sub(r"\.shortcut\.norm\.", ".downsample.1.", name)
    return re.sub(r"\.shortcut\.", ".downsample.0.", name)


# detectron2's checkpoint/c2_model_loading.py knows both spellings: Caffe2's, and that of its own MSRA files.
_CAFFE2_NORM = {"s": "weight", "b": "bias", "rm": "running_mean", "riv": "running_var"}
_CAFFE2_NORM |= {"gamma": "weight", "beta": "bias", "running_mean": "running_mean", "running_var": "running_var"}
_CAFFE2_LEAF = "|".join(_CAFFE2_NORM)


def _caffe2(name: str) -> str | None:
    if name == "conv1_w":
        return "conv1.weight"
    if name.endswith("_momentum"):
        return None  # the optimizer's
    if found := re.fullmatch(rf"res_conv1_bn_({_CAFFE2_LEAF})", name):
        return f"bn1.{_CAFFE2_NORM[found[1]]}"
    if found := re.fullmatch(rf"res(\d)_(\d+)_branch(1|2a|2b|2c)(?:_(w)|_bn_({_CAFFE2_LEAF}))", name):
        at = f"layer{int(found[1]) - 1}.{found[2]}"
        weight, norm = found[4], _CAFFE2_NORM.get(found[5] or "")
        if found[3] == "1":
            return f"{at}.downsample.0.weight" if weight else f"{at}.downsample.1.{norm}"
        index = "abc".index(found[3][1]) + 1
        return f"{at}.conv{index}.weight" if weight else f"{at}.bn{index}.{norm}"
    return name if name.startswith("res") else None


def _simclr_v2(name: str) -> str | None:
    if found := re.fullmatch(r"net\.0\.(0|1\.0)\.(\w+)", name):
        return f"{'conv1' if found[1] == '0' else 'bn1'}.{found[2]}"
    if found := re.fullmatch(r"net\.(\d+)\.blocks\.(\d+)\.net\.([024]|[135]\.0)\.(\w+)", name):
        index = int(found[3][0])
        part = f"conv{index // 2 + 1}" if index % 2 == 0 else f"bn{index // 2 + 1}"
        return f"layer{found[1]}.{found[2]}.{part}.{found[4]}"
    if found := re.fullmatch(r"net\.(\d+)\.blocks\.(\d+)\.projection\.(shortcut|bn\.0)\.(\w+)", name):
        return f"layer{found[1]}.{found[2]}.downsample.{0 if found[3] == 'shortcut' else 1}.{found[4]}"
    return name if name.startswith("net.") else None


_HAIKU_LEAVES = {"w": "weight", "scale": "weight", "offset": "bias", "b": "bias"}
_HAIKU_STATE = {"mean_ema": "running_mean", "var_ema": "running_var"}


def _haiku(name: str) -> str | None:
    # Modules are joined by "/~/", a module and its parameter by "/"; a moving average keeps `average` besides two more.
    module, _, leaf = name.rpartition("/")
    if module.endswith(tuple(_HAIKU_STATE)):
        module, _, average = module.rpartition("/~/")
        if leaf != "average":
            return None
        leaf = _HAIKU_STATE[average]
    else:
        leaf = _HAIKU_LEAVES.get(leaf, leaf)
    if found := re.fullmatch(r"initial_(conv|batchnorm)(?:_1)?", module):
        return f"{'conv1' if found[1] == 'conv' else 'bn1'}.{leaf}"
    block = r"block_group_(\d+)/~/block_(\d+)/~/"
    if found := re.fullmatch(block + r"(conv|batchnorm)_(\d+)", module):
        part = "conv" if found[3] == "conv" else "bn"
        return f"layer{int(found[1]) + 1}.{found[2]}.{part}{int(found[4]) + 1}.{leaf}"
    if found := re.fullmatch(block + r"shortcut_(conv|batchnorm)", module):
        return f"layer{int(found[1]) + 1}.{found[2]}.downsample.{0 if found[3] == 'conv' else 1}.{leaf}"
    return name if module.startswith("block_group") else None


RESNETS: tuple[Layout, ...] = (
    Layout("torchvision", ("conv1.weight", "layer1.0.conv1.weight"), _torchvision),
    Layout("numbered", ("0.weight", "4.0.conv1.weight", "5.0.conv1.weight"), _numbered(4)),
    Layout("numbered, no max-pool", ("0.weight", "3.0.conv1.weight", "6.0.conv1.weight"), _numbered(3)),
    Layout(
        "huggingface",
        ("embedder.embedder.convolution.weight", "encoder.stages.0.layers.0.layer.0.convolution.weight"),
        _huggingface,
    ),
    Layout("detectron2", ("stem.conv1.weight", "res2.0.conv1.weight"), _detectron2),
    Layout("caffe2", ("conv1_w", "res2_0_branch2a_w"), _caffe2),
    Layout("simclr_v2", ("net.0.0.weight", "net.1.blocks.0.net.0.weight"), _simclr_v2),
    Layout(
        "haiku",
        ("block_group_0/~/block_0/~/conv_0/w", "block_group_0/~/block_0/~/conv_1/w"),
        _haiku,
        transposed=True,
    ),
    Layout(
        "deep stem",
        ("conv1.0.weight", "layer1.0.conv1.weight"),
        _torchvision,
        kind="timm",
    ),
    Layout(
        "deep stem, mmseg",
        ("stem.0.weight", "layer1.0.conv1.weight"),
        _torchvision,
        kind="a deep stem (ResNetV1c or V1d of mmsegmentation): the trunk is no plain ResNet and cannot become one",
    ),
)
