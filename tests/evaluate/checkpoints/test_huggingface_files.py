"""Folders of transformers' `save_pretrained`: each model with random weights, its features those of its own forward."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evaluate.checkpoints.inspect import inspect_file
from evaluate.checkpoints.load import load_backbone
from pretrain.runtime.errors import InputError

pytest.importorskip("transformers")

VIT = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
CONVNEXT = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}


def class_token(out: Any) -> Tensor:
    return out.last_hidden_state[:, 0]


def pooled(out: Any) -> Tensor:
    return out.pooler_output.flatten(1)


def mean_of_patches(out: Any) -> Tensor:
    return out.last_hidden_state[:, 1:].mean(1)


def mean_of_tokens(out: Any) -> Tensor:
    return out.last_hidden_state.mean(1)


@dataclass(frozen=True)
class Case:
    """transformers' names of a model, its settings, the features that are compared, and the format."""

    model: str
    settings: dict[str, Any]
    features: Callable[[Any], Tensor]
    form: str
    more: dict[str, Any] | None = None


CASES = {
    "vit": Case("ViT", VIT, class_token, "huggingface_vit"),
    "vit, tanh": Case("ViT", VIT | {"hidden_act": "gelu_pytorch_tanh"}, class_token, "huggingface_vit"),
    "vit, no bias": Case("ViT", VIT | {"qkv_bias": False}, class_token, "huggingface_vit"),
    "deit": Case("DeiT", VIT, class_token, "huggingface_vit"),
    "mae": Case("ViTMAE", VIT | {"mask_ratio": 0.0}, class_token, "huggingface_vit"),
    "msn": Case("ViTMSN", VIT, class_token, "huggingface_vit"),
    "ijepa": Case("IJepa", VIT, mean_of_tokens, "huggingface_vit"),
    "beit": Case("Beit", VIT | {"use_relative_position_bias": True}, pooled, "huggingface_beit"),
    "beit, shared": Case("Beit", VIT | {"use_shared_relative_position_bias": True}, pooled, "huggingface_beit"),
    "beit, absolute": Case("Beit", VIT | {"use_absolute_position_embeddings": True}, pooled, "huggingface_beit"),
    "data2vec": Case(
        "Data2VecVision", VIT | {"use_relative_position_bias": True}, pooled, "huggingface_beit",
        {"add_pooling_layer": True},
    ),
    "data2vec, no norm": Case("Data2VecVision", VIT, mean_of_patches, "huggingface_beit"),
    "dinov2": Case("Dinov2", VIT, pooled, "huggingface_dinov2"),
    "dinov2, swiglu": Case("Dinov2", VIT | {"use_swiglu_ffn": True}, pooled, "huggingface_dinov2"),
    "dinov2, registers": Case("Dinov2WithRegisters", VIT, pooled, "huggingface_dinov2"),
    "dinov3": Case("DINOv3ViT", VIT | {"num_register_tokens": 4}, pooled, "huggingface_dinov3"),
    "dinov3, gated": Case(
        "DINOv3ViT", VIT | {"num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"}, pooled,
        "huggingface_dinov3",
    ),
    "dinov3 convnext": Case("DINOv3ConvNext", CONVNEXT, pooled, "huggingface_dinov3"),
    "clip": Case("CLIPVision", VIT, pooled, "huggingface_tower"),
    "siglip": Case("SiglipVision", VIT, pooled, "huggingface_tower"),
    "swin": Case("Swin", SWIN, pooled, "huggingface_swin"),
    "swin v2": Case("Swinv2", SWIN, pooled, "huggingface_swin"),
    "convnext": Case("ConvNext", CONVNEXT, pooled, "huggingface_convnext"),
    "convnext v2": Case("ConvNextV2", CONVNEXT, pooled, "huggingface_convnext"),
}  # fmt: skip


def drawn(model: nn.Module, seed: int) -> nn.Module:
    """Random everywhere, also where training starts from zeros and ones, of a size that keeps features moderate."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif parameter.ndim == 1:
                parameter.normal_(0, 0.2, generator=generator)
            else:
                parameter.normal_(0, 1 / max(parameter[0].numel(), 1) ** 0.5, generator=generator)
    return model.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, nn.Module]]:
    """The folder of a case and the model that it holds, made once."""
    import transformers

    made: dict[str, tuple[Path, nn.Module]] = {}

    def save(name: str) -> tuple[Path, nn.Module]:
        if name not in made:
            case = CASES[name]
            config = getattr(transformers, f"{case.model}Config")(**case.settings)
            model = drawn(getattr(transformers, f"{case.model}Model")(config, **(case.more or {})), len(name))
            folder = tmp_path_factory.mktemp("huggingface") / "model"
            model.save_pretrained(folder)
            made[name] = folder, model
        return made[name]

    return save


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("name", CASES)
def test_features_are_those_of_its_own_forward(saved: Any, name: str) -> None:
    folder, model = saved(name)
    path, case = folder / "model.safetensors", CASES[name]
    seen = inspect_file(path)
    assert seen.loads, seen.objections
    assert seen.formats == (case.form,)
    with torch.no_grad():
        theirs = case.features(model(IMAGES))
        ours = load_backbone(path).module(IMAGES)
    assert theirs.std() > 1e-2
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "dinov2", "clip", "swin v2"])
def test_without_its_config_it_asks(saved: Any, tmp_path: Path, name: str) -> None:
    folder, model = saved(name)
    path = tmp_path / "model.safetensors"
    shutil.copy(folder / "model.safetensors", path)
    asked = "window_size" if name == "swin v2" else "num_heads"
    with pytest.raises(InputError, match=rf"--arch {asked}=N"):
        load_backbone(path)
    seen = inspect_file(path)
    assert not seen.loads
    arch = {"swin v2": "window_size=4,img_size=32", "clip": "num_heads=2,act_layer=quick_gelu,eps=1e-5"}.get(
        name, "num_heads=2,eps=1e-12" if name == "vit" else "num_heads=2"
    )
    with torch.no_grad():
        ours = load_backbone(path, arch=arch).module(IMAGES)
        theirs = CASES[name].features(model(IMAGES))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_resnet_that_is_another_function_is_refused(tmp_path: Path, saved: Any) -> None:
    import transformers

    for changes, said in (
        ({"downsample_in_first_stage": True}, "downsample_in_first_stage"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({}, None),
    ):
        config = transformers.ResNetConfig(depths=[2, 2, 2, 2], hidden_sizes=[64, 128, 256, 512], layer_type="basic")
        with torch.device("meta"):
            model = transformers.ResNetModel(config)
        model = model.to_empty(device="cpu")
        for parameter in model.state_dict().values():
            parameter.fill_(1)
        folder = tmp_path / f"resnet {said}"
        model.save_pretrained(folder)
        text = json.loads((folder / "config.json").read_text()) | changes
        (folder / "config.json").write_text(json.dumps(text))
        if said is None:
            assert load_backbone(folder / "model.safetensors").metadata.backbone == "resnet18"
        else:
            with pytest.raises(InputError, match=said):
                load_backbone(folder / "model.safetensors")
