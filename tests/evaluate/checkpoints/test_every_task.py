"""Files whose encoder has no prefix of its own: what `inspect` says loads is measured by every task."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evaluate.checkpoints.export import convert
from evaluate.checkpoints.inspect import inspect_file
from evaluate.checkpoints.load import load_backbone
from evaluate.guards import check_weights_are_the_files
from pretrain.backbones import registry
from pretrain.runtime.errors import InputError

CLASSIFICATION = ["knn", "linear", "logreg", "semi", "finetune", "svm"]


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return registry.build("cifar_resnet20").state_dict()


# How projects wrap plain names: MoCo's and Lightning's key, detectron2's and MAE's, DeepSpeed's, an iBOT teacher's ...
WRAPPED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "state_dict": lambda plain: {"state_dict": plain},
    "model": lambda plain: {"model": plain, "epoch": 3},
    "teacher": lambda plain: {"teacher": plain, "student": {f"module.{n}": t + 1 for n, t in plain.items()}},
    "deepspeed": lambda plain: {"module": plain, "ds_config": {}, "optimizer": None},
    "two deep": lambda plain: {"ema": {"state_dict": plain}},
    "a name with a slash": lambda plain: {"a/b": plain},
    "a name with a dot": lambda plain: {"net.": plain},
    "wrapped and prefixed": lambda plain: {"state_dict": {f"module.net.{n}": t for n, t in plain.items()}},
    "bare": lambda plain: plain,
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_it_is_measured_by_a_task_and_found_again_by_its_prefix(
    tmp_path: Path, state: dict[str, Tensor], through_tasks: Any, kind: str
) -> None:
    path = tmp_path / "file.pth"
    torch.save(WRAPPED[kind](state), path)
    seen = inspect_file(path)
    assert seen.loads
    assert 0 <= through_tasks(path, tasks=["knn"])["knn"] <= 100
    # What the row says of where the weights stood names them again, as do the labels that `inspect` shows.
    for select in filter(None, (load_backbone(path).metadata.prefix, seen.chosen, *(c.label for c in seen.candidates))):
        if kind != "teacher" or "teacher" in select:
            again = load_backbone(path, select=select).module.state_dict()
            assert torch.equal(again["conv1.weight"], state["conv1.weight"])


def test_every_task_measures_it(tmp_path: Path, state: dict[str, Tensor], through_tasks: Any) -> None:
    path = tmp_path / "file.pth"
    torch.save({"state_dict": state}, path)
    measured = through_tasks(path)
    assert list(measured) == CLASSIFICATION
    assert all(0 <= value <= 100 for value in measured.values())


def test_our_own_exports_are_measured(tmp_path: Path, peers: Any, through_tasks: Any) -> None:
    source = tmp_path / "source.pth"
    torch.save(peers.resnet(4).state_dict(), source)
    convert(source, "detectron2", tmp_path / "detectron2.pkl")
    assert 0 <= through_tasks(tmp_path / "detectron2.pkl", tasks=["knn"])["knn"] <= 100
    for to in ("mmseg", "timm", "torchvision", "huggingface"):
        out = tmp_path / f"{to}{'.safetensors' if to in ('timm', 'huggingface') else '.pkl'}"
        convert(source, to, out)
        check_weights_are_the_files(load_backbone(out))


def test_a_whole_label_wins_over_the_end_of_another(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "file.pth"
    twice = {f"net.{name}": tensor for name, tensor in state.items()}
    torch.save({"model": twice | {f"ema.net.{n}": t + 1 for n, t in state.items()}, "net": state}, path)
    for select, shift in (("model/net.", 0), ("model/ema.net.", 1), ("net/", 0)):
        loaded = load_backbone(path, select=select).module.state_dict()["conv1.weight"]
        assert torch.equal(loaded, state["conv1.weight"] + shift)
    with pytest.raises(InputError, match=r"--select 'net' names several encoders of .*net\.pth|names several"):
        load_backbone(path, select="net")


def test_torchs_lazy_negative_is_the_negative(tmp_path: Path, state: dict[str, Tensor]) -> None:
    # The imaginary part of a conjugate carries torch's neg bit: the file holds the numbers with the other sign.
    lazy = torch.complex(torch.zeros_like(state["conv1.weight"]), state["conv1.weight"]).conj().imag
    assert lazy.is_neg()
    for name, value in (("lazy", lazy), ("parameter", torch.nn.Parameter(lazy)), ("plain", lazy.resolve_neg())):
        torch.save({**state, "conv1.weight": value}, tmp_path / f"{name}.pth")
        loaded = load_backbone(tmp_path / f"{name}.pth").module.state_dict()["conv1.weight"]
        assert torch.equal(loaded, -state["conv1.weight"]), name
    torch.save({**state, "conv1.weight": lazy}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    loaded = load_backbone(tmp_path / "old.pth").module.state_dict()["conv1.weight"]
    assert torch.equal(loaded, -state["conv1.weight"])


def test_what_would_be_refused_is_said_when_it_is_inspected(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    whole = timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0).state_dict()
    wrong = {
        "a missing tensor": {n: t for n, t in whole.items() if n != "blocks.3.norm1.bias"},
        "no final norm": {n: t for n, t in whole.items() if not n.startswith("norm.")},
        "a wrong shape": whole | {"blocks.1.mlp.fc1.bias": torch.zeros(9)},
    }
    for kind, tensors in wrong.items():
        path = tmp_path / f"{kind}.pth"
        torch.save(tensors, path)
        assert not inspect_file(path).loads, kind
        with pytest.raises(InputError, match=r"missing|do not have|no place|does not fit|head"):
            load_backbone(path)


def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    path = tmp_path / "file.pth"
    torch.save(timm.create_model("vit_tiny_patch16_224", pretrained=False, num_classes=0).state_dict(), path)
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("FASTMOCO_CACHE", str(tmp_path / "a file"))
    assert inspect_file(path, arch="num_heads=3").loads


def test_a_pickle_of_arrays_in_protocol_2(tmp_path: Path, state: dict[str, Tensor], through_tasks: Any) -> None:
    path = tmp_path / "file.pkl"
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    path.write_bytes(pickle.dumps({"blobs": arrays}, 2))
    assert 0 <= through_tasks(path, tasks=["knn"])["knn"] <= 100
