"""What is refused, with the exact list of what is wrong, and what is only warned of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evaluate.checkpoints.inspect import inspect_file
from evaluate.checkpoints.load import load_backbone
from pretrain.runtime.errors import InputError


@pytest.fixture
def state(peers: Any) -> dict[str, torch.Tensor]:
    return peers.resnet(0).state_dict()


def saved(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "checkpoint.pth"
    torch.save(content, path)
    return path


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as said:
        load_backbone(path, **options)
    assert not inspect_file(path, **options).loads
    return str(said.value)


def test_any_missing_tensor(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    gone = ["bn1.running_mean", "layer2.0.downsample.1.running_var", "layer4.1.conv2.weight"]
    for name in gone:
        del state[name]
    path = saved(tmp_path, state)
    assert refusal(path) == f"{path}: 3 tensors of resnet18 are missing: {', '.join(gone)}"
    assert inspect_file(path).missing == tuple(gone)


def test_all_statistics_missing(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    # What a conversion to detectron2 without its author leaves: weights and biases, no statistics.
    path = saved(tmp_path, {name: tensor for name, tensor in state.items() if "running" not in name})
    assert refusal(path).startswith(f"{path}: 40 tensors of resnet18 are missing: bn1.running_mean, bn1.running_var, ")
    assert len(inspect_file(path).missing) == 40


def test_counters_may_be_missing(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    without = {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}
    loaded = load_backbone(saved(tmp_path, without)).module.state_dict()
    assert loaded["bn1.num_batches_tracked"] == 0
    assert torch.equal(loaded["bn1.running_mean"], state["bn1.running_mean"])


def test_a_wrong_shape(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    state["layer3.0.conv1.weight"] = torch.ones(256, 64, 3, 3)
    path = saved(tmp_path, state)
    assert refusal(path) == (
        f"{path}: 1 tensors do not have resnet18's shape: "
        "layer3.0.conv1.weight is (256, 64, 3, 3), expected (256, 128, 3, 3)"
    )


def test_a_tensor_too_many(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    state["layer4.2.conv1.weight"] = torch.ones(512, 512, 3, 3)
    state["layer1.0.bn1.bias_2"] = torch.ones(64)
    path = saved(tmp_path, state)
    said = refusal(path)
    assert said.startswith(f"{path}: 2 tensors of the trunk have no place in resnet18, the closest backbone")
    assert said.endswith("layer4.2.conv1.weight, layer1.0.bn1.bias_2")


def test_two_formats_that_both_match(tmp_path: Path, peers: Any, state: dict[str, torch.Tensor]) -> None:
    both = {f"{at}.{name}": tensor for at in ("encoder_q", "base_encoder") for name, tensor in state.items()}
    path = saved(tmp_path, {"state_dict": both | {"queue": torch.ones(2)}})
    assert inspect_file(path).formats == ("moco_v2", "moco_v3")
    assert refusal(path) == (
        f"{path}: formats moco_v2 and moco_v3 both match; say which encoder with --select: "
        "state_dict/encoder_q., state_dict/base_encoder."
    )
    loaded = load_backbone(path, select="encoder_q")
    assert loaded.metadata.prefix == "state_dict/encoder_q."


def test_two_encoders_of_an_unknown_project(tmp_path: Path, peers: Any) -> None:
    model = peers.parts({"left": peers.resnet(0), "right": peers.resnet(1)})
    path = saved(tmp_path, model.state_dict())
    assert refusal(path) == (
        f"{path}: it holds 2 different encoders and nothing says which is evaluated; choose one with --select: "
        "left., right."
    )
    same = peers.parts({"left": peers.resnet(0), "right": peers.resnet(0)})
    assert inspect_file(saved(tmp_path, same.state_dict())).loads


def test_no_encoder_at_all(tmp_path: Path) -> None:
    path = saved(tmp_path, {"weight": torch.ones(2, 2), "head.bias": torch.ones(2)})
    assert refusal(path) == (f"{path}: no encoder in a known spelling: its tensors' names begin with head, weight")
    path = saved(tmp_path, {"epoch": 3})
    assert refusal(path) == f"{path}: no encoder in a known spelling: it holds no tensors"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none(tmp_path: Path, state: dict[str, torch.Tensor], value: float) -> None:
    state["layer1.0.conv1.weight"][3, 2, 1, 0] = value
    path = saved(tmp_path, state)
    assert refusal(path) == f"{path}: tensor layer1.0.conv1.weight holds NaN or infinity"


def test_a_negative_variance(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    state["bn1.running_var"][5] = -0.1
    path = saved(tmp_path, state)
    assert refusal(path) == f"{path}: tensor bn1.running_var holds a negative variance"


def test_numbers_of_another_type(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    state["conv1.weight"] = state["conv1.weight"].to(torch.int8)
    path = saved(tmp_path, state)
    assert refusal(path) == f"{path}: tensor conv1.weight is of type int8; expected floating point numbers"


def test_tensors_that_share_their_numbers(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    # One number that stands for all: each tensor lies within its storage, but all lie in the same one.
    pool = torch.full((state["layer4.1.conv2.weight"].numel(),), 0.01)
    path = saved(tmp_path, {n: pool[: t.numel()].view(t.shape) for n, t in state.items() if t.is_floating_point()})
    said = refusal(path)
    assert "more than the file is long: they share memory" in said


@pytest.mark.parametrize(
    ("stem", "said"),
    [
        ({"conv1.weight": torch.ones(64, 2, 7, 7)}, "a 2-channel (Sobel or ab) stem"),
        ({"conv1.weight": torch.ones(64, 1, 7, 7)}, "a 1-channel (grey) stem"),
        (
            {"conv1.0.weight": torch.ones(32, 3, 3, 3), "conv1.3.weight": torch.ones(32, 32, 3, 3)},
            "a deep stem (three 3x3 convolutions in place of one 7x7, as in ResNet-C and -D)",
        ),
        (
            {"stem.0.weight": torch.ones(32, 3, 3, 3), "stem.3.weight": torch.ones(32, 32, 3, 3)},
            "a deep stem (ResNetV1c or V1d of mmsegmentation)",
        ),
    ],
    ids=["sobel", "grey", "deep", "deep mmseg"],
)
def test_stems_are_named(tmp_path: Path, state: dict[str, torch.Tensor], stem: dict[str, Any], said: str) -> None:
    del state["conv1.weight"]
    path = saved(tmp_path, {"state_dict": state | stem, "meta": {}})
    assert said in refusal(path)


def test_a_deep_stem_of_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    model = timm.create_model("resnet18d", pretrained=False)
    save_file(model.state_dict(), path)
    assert inspect_file(path).backbone == "timm:resnet18d"
    save_file({n: t for n, t in model.state_dict().items() if not n.startswith("layer4.1.")}, path)
    assert "a deep stem" in refusal(path)


def test_cmc_takes_no_rgb(tmp_path: Path, peers: Any) -> None:
    lightness, colours = peers.resnet(0), peers.resnet(1)
    lightness.conv1, colours.conv1 = (nn.Conv2d(c, 64, 7, 2, 3, bias=False) for c in (1, 2))
    model = peers.parallel(peers.parts({"encoder1": lightness, "encoder2": colours}))
    content = {"opt": peers.arguments(), "model": model.state_dict(), "contrast": {}, "epoch": 240}
    path = saved(tmp_path, content)
    assert inspect_file(path).formats == ("pycontrast",)
    assert refusal(path) == (
        f"{path}: it holds 2 different encoders and nothing says which is evaluated; choose one with --select: "
        "model/encoder1., model/encoder2."
    )
    assert "a 1-channel (grey) stem" in refusal(path, select="encoder1")
    assert "a 2-channel (Sobel or ab) stem" in refusal(path, select="encoder2")


def test_statistics_that_never_saw_an_image_are_warned_of(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    for name, tensor in state.items():
        if name.endswith(("running_mean", "running_var")):
            tensor.fill_(float(name.endswith("var")))
    seen = inspect_file(saved(tmp_path, state))
    assert seen.loads
    assert seen.warnings[0] == "20 of 20 batch norms have never seen an image: mean 0 and variance 1 everywhere"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_told_and_exact(
    tmp_path: Path, state: dict[str, torch.Tensor], dtype: torch.dtype
) -> None:
    typed = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    path = saved(tmp_path, typed)
    held = load_backbone(path).module.state_dict()
    assert all(torch.equal(held[name], tensor.to(held[name].dtype)) for name, tensor in typed.items())
    rounded = [said for said in inspect_file(path).warnings if "rounded" in said]
    assert rounded == (["its float64 numbers are rounded to float32"] if dtype == torch.float64 else [])


def test_wrappers_at_any_depth(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    wrapped = {f"module._orig_mod.net.module.{name}": tensor for name, tensor in state.items()}
    seen = inspect_file(saved(tmp_path, {"model": wrapped}))
    assert (seen.chosen, seen.candidates[0].label) == ("model/module._orig_mod.net.module.", "model/net.")
    # A segment that only begins like a wrapper is none.
    kept = {f"modules.{name}": tensor for name, tensor in state.items()}
    assert inspect_file(saved(tmp_path, kept)).chosen == "modules."
    twice = {"module.conv1.weight": torch.ones(1), "conv1.weight": torch.ones(1)}
    with pytest.raises(
        InputError, match=r"two tensors of the file are called conv1\.weight once wrappers are left out"
    ):
        inspect_file(saved(tmp_path, twice))


def test_the_command_says_it_in_one_sentence(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    del state["bn1.bias"]
    path = saved(tmp_path, state)
    fastmoco = [sys.executable, "-m", "benchmarks.cli"]
    for words in (
        ["convert", str(path), "--to", "timm", "--out", str(tmp_path / "x.safetensors")],
        ["evaluate", "knn", "--checkpoint", str(path), "--data", "shapes", "--out", str(tmp_path / "run")],
    ):
        answer = subprocess.run([*fastmoco, *words], capture_output=True, text=True, check=False)
        assert answer.returncode == 2
        assert answer.stderr.splitlines()[-1] == f"fastmoco: {path}: 1 tensors of resnet18 are missing: bn1.bias"
        assert "Traceback" not in answer.stderr
    assert not (tmp_path / "x.safetensors").exists()
    assert not (tmp_path / "run").exists()
    # A script learns from the exit code whether it would load.
    looked = subprocess.run([*fastmoco, "inspect", str(path)], capture_output=True, text=True, check=False)
    assert looked.returncode == 1
    assert "refused: 1 tensors of resnet18 are missing" in looked.stdout
    asked = [*fastmoco, "inspect", str(path), "--json", "--normalization", "swav"]
    told = json.loads(subprocess.run(asked, capture_output=True, text=True, check=False).stdout)
    assert (told["loads"], told["missing"], told["formats"]) == (False, ["bn1.bias"], ["backbone_only"])
    assert told["input"]["normalization"]["std"] == [0.228, 0.224, 0.225]
    assert told["candidates"][0]["tensors"] == 99
