"""Encoders spelt in names of their own: SimCLR v2's conversion, BYOL in Haiku, and DINO's and MoCo v3's ViTs."""

from __future__ import annotations

import pickle
import sys
from collections import namedtuple
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluate.checkpoints.export import convert
from evaluate.checkpoints.inspect import inspect_file
from evaluate.checkpoints.load import load_backbone
from evaluate.guards import check_weights_are_the_files
from pretrain.runtime.errors import InputError

# SimCLR v2 -----------------------------------------------------------------------------------------------------------


def conv(before: int, after: int, kernel: int = 1, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel, stride, (kernel - 1) // 2, bias=False)


class Block(nn.Module):
    def __init__(self, before: int, width: int, stride: int, first: bool) -> None:
        super().__init__()
        self.projection: nn.Module = nn.Identity()
        if first:
            self.projection = nn.Module()
            self.projection.shortcut = conv(before, 4 * width, 1, stride)
            self.projection.bn = nn.Sequential(nn.BatchNorm2d(4 * width), nn.Identity())
        self.net = nn.Sequential(
            conv(before, width),
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU()),
            conv(width, width, 3, stride),
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU()),
            conv(width, 4 * width),
            nn.Sequential(nn.BatchNorm2d(4 * width), nn.Identity()),
        )

    def forward(self, x: Tensor) -> Tensor:
        around = x
        if not isinstance(self.projection, nn.Identity):
            around = self.projection.bn(self.projection.shortcut(x))
        return F.relu(around + self.net(x))


class SimclrV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(conv(3, 64, 7, 2), nn.Sequential(nn.BatchNorm2d(64), nn.ReLU()), nn.MaxPool2d(3, 2, 1))
        stages, before = [], 64
        for index, count in enumerate((3, 4, 6, 3)):
            width = 64 * 2**index
            stage = nn.Module()
            stage.blocks = nn.ModuleList()
            for block in range(count):
                stage.blocks.append(Block(before, width, 2 if index and not block else 1, not block))
                before = 4 * width
            stages.append(stage)
        self.net = nn.Sequential(stem, *stages)
        self.fc = nn.Linear(2048, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.net[0](x)
        for stage in list(self.net)[1:]:
            for block in stage.blocks:
                x = block(x)
        return x.mean((2, 3))


def test_simclr_v2(tmp_path: Path, peers: Any, prove: Any, randomised: Any) -> None:
    model = randomised(SimclrV2(), 0)
    head = peers.parts({"layers": nn.ModuleList([nn.Linear(2048, 64), nn.BatchNorm1d(64)])})
    path = tmp_path / "r50_1x_sk0.pth"
    torch.save({"resnet": model.state_dict(), "head": head.state_dict()}, path)
    prove(
        path,
        model,
        form="simclr_v2",
        chosen="resnet",
        dropped={
            "resnet/fc": "classifier or projection on top of the trunk",
            "head/layers": "projection head",
        },
        normalization="none",
    )


def test_selective_kernels_are_refused_by_name(tmp_path: Path, randomised: Any) -> None:
    # r50_1x_sk1 has a stem of three convolutions: the names go on, the trunk is another.
    model = randomised(SimclrV2(), 0)
    state = model.state_dict()
    state["net.0.2.weight"] = torch.ones(32, 32, 3, 3)
    path = tmp_path / "r50_1x_sk1.pth"
    torch.save({"resnet": state, "head": {}}, path)
    with pytest.raises(InputError, match=r"1 tensors of the trunk have no place in resnet50.*net\.0\.2\.weight"):
        load_backbone(path)


# BYOL ----------------------------------------------------------------------------------------------------------------

_State = namedtuple("_ByolExperimentState", "online_params target_params online_state target_state opt_state")


def haiku_tables(model: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """A torchvision ResNet-50 as Haiku keeps it: parameters and statistics by module, kernels HWIO."""
    params: dict[str, Any] = {}
    state: dict[str, Any] = {}
    modules = dict(model.named_modules())
    for name, module in modules.items():
        if not isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            continue
        kind = "conv" if isinstance(module, nn.Conv2d) else "batchnorm"
        parts = name.split(".")
        if len(parts) == 1:
            path = f"res_net50/~/initial_{kind}{'_1' if kind == 'conv' else ''}"
        else:
            at = f"res_net50/~/block_group_{int(parts[0][-1]) - 1}/~/block_{parts[1]}/~"
            path = f"{at}/shortcut_{kind}" if parts[2] == "downsample" else f"{at}/{kind}_{int(parts[2][-1]) - 1}"
        if kind == "conv":
            params[path] = {"w": module.weight.detach().permute(2, 3, 1, 0).numpy().copy()}
            continue
        wide = {key: value.detach().reshape(1, 1, 1, -1).numpy().copy() for key, value in module.state_dict().items()
                if key != "num_batches_tracked"}  # fmt: skip
        params[path] = {"scale": wide["weight"], "offset": wide["bias"]}
        for key, average in (("running_mean", "mean_ema"), ("running_var", "var_ema")):
            state[f"{path}/~/{average}"] = {
                "average": wide[key],
                "hidden": wide[key] * 0.5,
                "counter": np.array(1000, "i4"),
            }
    return params, state


@pytest.fixture
def byol_module(monkeypatch: pytest.MonkeyPatch) -> None:
    # The class must be found under its own module's name while the file is written.
    module = ModuleType("byol.byol_experiment")
    module._ByolExperimentState = _State  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "byol", ModuleType("byol"))
    monkeypatch.setitem(sys.modules, "byol.byol_experiment", module)
    monkeypatch.setattr(_State, "__module__", "byol.byol_experiment")


def byol_file(path: Path, online: nn.Module, target: nn.Module) -> None:
    (params, state), (other_params, other_state) = haiku_tables(online), haiku_tables(target)
    for name, width in (("projector/~/linear", 2048), ("predictor/~/linear", 16), ("classifier", 2048)):
        params[name] = {"w": np.ones((width, 4), "f4"), "b": np.ones(4, "f4")}
    experiment = _State(params, other_params, state, other_state, ({"momentum": np.ones(3, "f4")},))
    content = {"experiment_state": experiment, "step": 300_000, "rng": np.arange(2, dtype="u4")}
    path.write_bytes(pickle.dumps(content, protocol=4))


def same_resnet50(model: nn.Module, images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, 2048): torchvision's weights under TensorFlow's SAME padding, every window padded by hand."""

    def pad(x: Tensor, kernel: int, stride: int, value: float = 0.0) -> Tensor:
        before, after = [], []
        for size in x.shape[2:]:
            total = max((int(np.ceil(size / stride)) - 1) * stride + kernel - size, 0)
            before.append(total // 2)
            after.append(total - total // 2)
        return F.pad(x, (before[1], after[1], before[0], after[0]), value=value)

    def convolve(layer: nn.Conv2d, x: Tensor) -> Tensor:
        kernel, stride = layer.kernel_size[0], layer.stride[0]
        return F.conv2d(pad(x, kernel, stride), layer.weight, stride=stride)

    x = F.relu(model.bn1(convolve(model.conv1, images)))
    x = F.max_pool2d(pad(x, 3, 2, float("-inf")), 3, 2)
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        for block in stage:
            y = F.relu(block.bn1(convolve(block.conv1, x)))
            y = F.relu(block.bn2(convolve(block.conv2, y)))
            y = block.bn3(convolve(block.conv3, y))
            around = x if block.downsample is None else block.downsample[1](convolve(block.downsample[0], x))
            x = F.relu(around + y)
    return x.mean((2, 3))


class Same(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return same_resnet50(self.model, images)


@pytest.mark.long
@pytest.mark.usefixtures("byol_module")
def test_byol(tmp_path: Path, peers: Any, prove: Any) -> None:
    online = peers.resnet(0, name="resnet50")
    path = tmp_path / "pretrain_res50x1.pkl"
    byol_file(path, online, peers.resnet(1, name="resnet50"))
    found = prove(
        path,
        Same(online),
        form="byol",
        chosen="experiment_state/online/res_net50/~/",
        dropped={
            "experiment_state/online/res_net50": "bookkeeping of a moving average",
            "experiment_state/online/projector": "projection head or predictor",
            "experiment_state/online/predictor": "projection head or predictor",
            "experiment_state/online_params/classifier": "classifier",
            "rng": "no part of the trunk",
            "experiment_state/target": "the target network: a running average of the online one",
        },
    )
    assert found.seen.padding == "same"
    loaded = load_backbone(path)
    assert loaded.metadata.step == 300_000
    # With torch's own padding the same weights give other features: the flag is obeyed, and it matters.
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert (loaded.module(images) - online(images)).abs().max() > 1e-3
    # Our own format keeps the flag; a library whose ResNet has no such padding is refused.
    convert(path, "fastmoco", tmp_path / "backbone.safetensors")
    with torch.no_grad():
        assert torch.equal(load_backbone(tmp_path / "backbone.safetensors").module(images), loaded.module(images))
    with pytest.raises(InputError, match="SAME padding at stride 2, which torchvision's ResNet does not have"):
        convert(path, "torchvision", tmp_path / "resnet50.pth")


# ViTs ----------------------------------------------------------------------------------------------------------------


class Vit(nn.Module):
    """DINO's vision_transformer.py: the class token after the last norm."""

    def __init__(self, width: int, depth: int, heads: int, patch: int) -> None:
        super().__init__()
        self.heads = heads
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (224 // patch) ** 2 + 1, width))
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            block = nn.Module()
            block.norm1, block.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
            block.attn, block.mlp = nn.Module(), nn.Module()
            block.attn.qkv, block.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            block.mlp.fc1, block.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
            self.blocks.append(block)
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed.proj(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            y = block.attn.qkv(block.norm1(x))
            q, k, v = y.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
            weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
            x = x + block.attn.proj((weights @ v).transpose(1, 2).flatten(2))
            x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
        return self.norm(x)[:, 0]


def test_a_dino_vit(tmp_path: Path, peers: Any) -> None:
    torch.manual_seed(0)
    teacher = peers.parts({"backbone": Vit(384, 12, 6, 16), "head": peers.mlp(384, 16)})
    nn.init.normal_(teacher.backbone.pos_embed, std=0.2)
    nn.init.normal_(teacher.backbone.cls_token, std=0.2)
    path = tmp_path / "dino_deitsmall16_pretrain_full_checkpoint.pth"
    student = peers.parallel(peers.parts({"backbone": Vit(384, 12, 6, 16), "head": peers.mlp(384, 16)}))
    torch.save({"student": student.state_dict(), "teacher": teacher.state_dict(), "epoch": 800}, path)
    seen = inspect_file(path)
    assert (seen.formats, seen.chosen) == (("dino",), "teacher/backbone.")
    assert seen.backbone == "timm:vit_small_patch16_224"
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        ours, theirs = load_backbone(path).module.double()(images), teacher.backbone.double()(images)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_vit_with_a_stem_of_its_own_is_refused(tmp_path: Path) -> None:
    stem = Vit(384, 1, 6, 16).state_dict()
    stem["patch_embed.proj.0.weight"] = stem.pop("patch_embed.proj.weight")
    torch.save(stem, tmp_path / "convstem.pth")
    with pytest.raises(InputError, match="no encoder in a known spelling"):
        load_backbone(tmp_path / "convstem.pth")


def moco_v3_small(layout: str, peers: Any, trunk: nn.Module) -> dict[str, Any]:
    if layout == "pretraining":
        parts = {"base_encoder": trunk, "momentum_encoder": Vit(384, 12, 12, 16), "predictor": peers.mlp(16, 16)}
        return {"arch": "vit_small", "state_dict": peers.parallel(peers.parts(parts)).state_dict()}
    if layout == "linear probe":
        state = peers.parallel(trunk).state_dict() | {"module.head.weight": torch.zeros(9, 384)}
        return {"epoch": 90, "arch": "vit_small", "state_dict": state, "best_acc1": 73.2}
    if layout == "solo-learn":
        whole = peers.parts({"backbone": trunk, "classifier": nn.Linear(384, 3), "momentum_backbone": trunk})
        return peers.lightning(whole, hyper_parameters={"method": "mocov3", "backbone": {"name": "vit_small"}})
    return trunk.state_dict()


@pytest.mark.parametrize("layout", ["pretraining", "linear probe", "solo-learn", "extracted"])
def test_the_small_vit_of_moco_v3_has_twelve_heads(tmp_path: Path, peers: Any, layout: str) -> None:
    torch.manual_seed(0)
    trunk = Vit(384, 12, 12, 16)
    nn.init.normal_(trunk.pos_embed, std=0.2)
    path = tmp_path / "file.pth"
    torch.save(moco_v3_small(layout, peers, trunk), path)
    arch = None
    if layout == "extracted":  # nothing in it tells it from DINO's, which has six
        with pytest.raises(
            InputError, match=r"6 \(timm, DeiT, DINO\) or 12 \(MoCo v3\); give it with --arch num_heads=N"
        ):
            load_backbone(path)
        arch = "num_heads=12"
    loaded = load_backbone(path, arch=arch)
    check_weights_are_the_files(loaded)
    assert loaded.metadata.backbone == "timm:vit_small_patch16_224,num_heads=12"
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(images), trunk.eval()(images), rtol=1e-5, atol=1e-5)
