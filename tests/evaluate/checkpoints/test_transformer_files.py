"""ViTs, Swins and ConvNeXts as papers, torchvision and timm save them: tiny, random weights, against their peers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformer, SwinTransformerBlockV2

from evaluate.checkpoints.export import convert
from evaluate.checkpoints.inspect import inspect_file
from evaluate.checkpoints.load import load_backbone
from evaluate.guards import check_weights_are_the_files
from pretrain.runtime.errors import InputError

timm = pytest.importorskip("timm")
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(7))
TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 8, "num_classes": 0}


def shaken(model: nn.Module, seed: int = 0) -> Any:
    """Random everywhere, also where training starts from zeros and ones."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif parameter.ndim == 1 or parameter.numel() < 8:
                parameter.normal_(0, 0.2, generator=generator)
            else:
                parameter.normal_(0, 1 / parameter[0].numel() ** 0.5, generator=generator)
    return model.eval()


def vit(**more: Any) -> Any:
    return shaken(timm.create_model("vit_tiny_patch16_224", **{**TINY, **more}))


def mae(trunk: Any) -> Any:
    return {
        "model": {**trunk.state_dict(), "mask_token": torch.ones(1, 1, 32), "decoder_embed.weight": torch.ones(2, 2)}
    }


def dinov2(trunk: Any) -> Any:
    state = {name.replace("reg_token", "register_tokens"): tensor for name, tensor in trunk.state_dict().items()}
    return {**state, "mask_token": torch.ones(1, 32)}


def dinov2_registers(trunk: Any) -> Any:
    """The original has a position for the class token; timm adds it to the token."""
    state = dinov2(trunk)
    position = torch.full((1, 1, 32), 0.5)
    state["cls_token"] = state["cls_token"] - position
    state["pos_embed"] = torch.cat([position, state["pos_embed"]], 1)
    return state


def dinov2_training(trunk: Any) -> Any:
    def chunk(name: str) -> str:
        return name.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.1.1.")

    teacher = {f"backbone.{chunk(name)}": tensor for name, tensor in dinov2(trunk).items()}
    return {"teacher": {**teacher, "dino_head.last_layer.weight": torch.ones(3, 3)}, "iteration": 9}


def jepa(trunk: Any) -> Any:
    target = {f"module.{name}": tensor for name, tensor in trunk.state_dict().items()}
    online = {name: tensor + 1 for name, tensor in target.items()}
    return {"encoder": online, "predictor": {"module.x": torch.ones(2)}, "target_encoder": target, "epoch": 3}


def msn(trunk: Any) -> Any:
    return {key: value for key, value in jepa(trunk).items() if key != "predictor"} | {"prototypes": torch.ones(3, 3)}


def teacher_student(trunk: Any) -> Any:
    state = {f"backbone.{name}": tensor for name, tensor in trunk.state_dict().items()}
    return {"teacher": state, "student": {f"module.{n}": t + 1 for n, t in state.items()}, "epoch": 3}


def convnext(**more: Any) -> Any:
    return shaken(timm.create_model("convnext_tiny", depths=[1, 1, 2, 1], dims=[8, 16, 24, 32], num_classes=0, **more))


def swin() -> Any:
    sizes = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "img_size": 32, "patch_size": 4}
    return shaken(timm.create_model("swin_tiny_patch4_window7_224", num_classes=0, **sizes))


def beit() -> Any:
    return shaken(timm.create_model("beit_base_patch16_224", **TINY))


Save = Callable[[Any], Any]
HEADS = "num_heads=2"
CASES: dict[str, tuple[Callable[[], Any], Save, str, str | None]] = {
    "mae": (vit, mae, "mae", HEADS),
    "dinov2": (lambda: vit(init_values=1.0), dinov2, "dinov2", HEADS),
    "dinov2, registers": (
        lambda: vit(init_values=1.0, reg_tokens=4, no_embed_class=True), dinov2_registers, "dinov2", HEADS
    ),
    "dinov2, training": (lambda: vit(init_values=1.0), dinov2_training, "dinov2_training", HEADS),
    "ijepa": (lambda: vit(class_token=False, global_pool="avg", fc_norm=False), jepa, "ijepa", HEADS),
    "msn": (vit, msn, "msn", HEADS),
    "ibot": (vit, lambda t: {"state_dict": {**t.state_dict(), "masked_embed": torch.ones(1, 32)}}, "ibot", HEADS),
    "dino": (vit, teacher_student, "dino", HEADS),
    "esvit": (swin, teacher_student, "dino", None),
    "fine-tuned, averaged": (lambda: vit(global_pool="avg"), lambda t: {"model": t.state_dict()}, "plain", HEADS),
    "distilled": (
        lambda: shaken(timm.create_model("deit_tiny_distilled_patch16_224", **TINY)), lambda t: t.state_dict(),
        "backbone_only", HEADS,
    ),
    "beit": (beit, lambda t: {"model": {**t.state_dict(), "mask_token": torch.ones(1, 1, 32)}}, "beit", None),
    "convnext": (convnext, lambda t: t.state_dict(), "backbone_only", None),
    "convnext v2": (
        lambda: convnext(use_grn=True, ls_init_value=None), lambda t: t.state_dict(), "backbone_only", None
    ),
    "swin": (swin, lambda t: t.state_dict(), "backbone_only", "img_size=32"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_features_are_the_peers(tmp_path: Path, name: str) -> None:
    make, save, form, arch = CASES[name]
    trunk, path = make(), tmp_path / "file.pth"
    torch.save(save(trunk), path)
    seen = inspect_file(path, arch=arch)
    assert seen.loads, seen.objections
    assert seen.formats == (form,)
    loaded = load_backbone(path, arch=arch)
    check_weights_are_the_files(loaded)
    with torch.no_grad():
        ours, theirs = loaded.module(IMAGES), trunk(IMAGES)
    assert theirs.std() > 1e-2
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    # What it is goes with it into timm's layout and back, without --arch.
    convert(path, "timm", tmp_path / "out.safetensors", arch=arch)
    with torch.no_grad():
        again = load_backbone(tmp_path / "out.safetensors")
        assert torch.equal(again.module(IMAGES), ours)
    assert again.metadata.backbone == loaded.metadata.backbone


def torchvision_vit() -> Any:
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64)
    model.heads = nn.Identity()
    return model


def torchvision_swin(v2: bool) -> Any:
    more = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2} if v2 else {}
    model = SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4], **more)
    model.head = nn.Identity()
    return model


def torchvision_convnext() -> Any:
    stages = [CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, 32, 2), CNBlockConfig(32, None, 1)]
    model = ConvNeXt(stages)
    model.classifier = nn.Sequential(*list(model.classifier)[:2])
    return model


@pytest.mark.parametrize(
    ("make", "arch"),
    [
        (torchvision_vit, HEADS),
        (lambda: torchvision_swin(False), "img_size=32"),
        (lambda: torchvision_swin(True), "img_size=32"),
        (torchvision_convnext, None),
    ],
    ids=["vit", "swin", "swin v2", "convnext"],
)
def test_torchvisions_own(tmp_path: Path, make: Callable[[], Any], arch: str | None) -> None:
    model = shaken(make())
    torch.save(model.state_dict(), tmp_path / "file.pth")
    seen = inspect_file(tmp_path / "file.pth", arch=arch)
    assert seen.loads, seen.objections
    assert seen.formats == ("torchvision_models",)
    with torch.no_grad():
        ours: Tensor = load_backbone(tmp_path / "file.pth", arch=arch).module(IMAGES)
        torch.testing.assert_close(ours, model(IMAGES).flatten(1), rtol=1e-5, atol=1e-5)


def test_timms_config_decides(tmp_path: Path) -> None:
    model = vit(num_heads=4)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    arguments = {**TINY, "num_heads": 4}
    config = {"architecture": "vit_tiny_patch16_224", "model_args": arguments, "num_classes": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_backbone(tmp_path / "model.safetensors")
    with torch.no_grad():
        assert torch.equal(loaded.module(IMAGES), model(IMAGES))


def test_models_of_equal_shapes_do_not_load_as_each_other(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    # With its config, a ResNet with blur pooling is one; without, Swin v2's window is asked for.
    save_file(timm.create_model("resnetblur18", num_classes=0).state_dict(), path)
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnetblur18"}))
    assert load_backbone(path).metadata.backbone == "timm:resnetblur18"
    (tmp_path / "config.json").unlink()
    save_file(timm.create_model("test_efficientnet_gn", num_classes=0).state_dict(), path)
    with pytest.raises(InputError, match="several models that compute different things.*test_efficientnet_gn"):
        load_backbone(path)
    assert load_backbone(path, arch="test_efficientnet_ln").metadata.backbone == "timm:test_efficientnet_ln"


def test_an_eva_does_not_load_as_a_beit(tmp_path: Path) -> None:
    # Its q and v biases are spelt as BEiT's; its rotary positions stand in no tensor.
    model = shaken(timm.create_model("eva02_tiny_patch14_224", num_classes=0))
    torch.save(model.state_dict(), tmp_path / "file.pth")
    assert load_backbone(tmp_path / "file.pth").metadata.backbone == "timm:eva02_tiny_patch14_224"
