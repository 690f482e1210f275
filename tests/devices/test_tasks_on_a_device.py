"""Every task on the emulated device gives the numbers of the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from emulated import emulated_cuda

from evaluate.api import load_backbone, measure
from pretrain.backbones.small_maps import SmallMapConv2d
from pretrain.data.catalog import Catalog, ScenesEntry, ShapesEntry

FEW = {"train_limit": 40, "test_limit": 20}
DETECTION = {"max_iter": 2, "steps": [1], "warmup_iters": 1, "precise_bn_iters": 1, "global_batch_size": 2}
CASES: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "knn": ("knn", None, {**FEW, "k": 5}),
    "knn-layers": ("knn", None, {**FEW, "k": 5, "layers": 2}),
    "linear-sweep": ("linear", "sweep", {**FEW, "epochs": 2, "min_steps": 4, "lrs": [0.1, 0.3]}),
    "linear-images": ("linear", "moco_v3", {**FEW, "epochs": 1, "global_batch_size": 20}),
    "linear-lars": ("linear", "fast_moco", {**FEW, "epochs": 1, "global_batch_size": 20}),
    "logreg": ("logreg", None, {**FEW, "grid_size": 3, "c_power_low": -3, "c_power_high": 0}),
    "semi": ("semi", None, {**FEW, "epochs": 1, "global_batch_size": 10}),
    "finetune": ("finetune", None, {**FEW, "epochs": 1, "global_batch_size": 20}),
    "segmentation": ("segmentation", "smoke", {"iterations": 2, "crop": 64, "global_batch_size": 4}),
    "detection": ("detection", "smoke_r18_fpn", DETECTION),
}


@pytest.fixture(autouse=True)
def _same_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SmallMapConv2d, "forward", torch.nn.Conv2d.forward)


def catalog() -> Catalog:
    return Catalog(
        {
            "shapes": ShapesEntry(format="shapes", size=32, train=60, test=30),
            "scenes": ScenesEntry(format="shapes-scenes", size=64, train=12, test=3),
        }
    )


@pytest.mark.parametrize("case", CASES)
def test_a_task_gives_the_numbers_of_the_cpu(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task, protocol, changes = CASES[case]
    data = "scenes" if task in ("detection", "segmentation") else "shapes"
    backbone = load_backbone("random:resnet18" if data == "scenes" else "random:cifar_resnet20")
    options: dict[str, Any] = {"catalog": catalog(), "protocol": protocol, "changes": changes}
    expected = measure(task, backbone, data, device="cpu", out=tmp_path / "cpu", **options)
    backbone = load_backbone("random:resnet18" if data == "scenes" else "random:cifar_resnet20")
    monkeypatch.setenv(
        "FASTMOCO_CACHE", str(tmp_path / "other")
    )  # features made on the device, not read from the cache
    with emulated_cuda(monkeypatch):
        found = measure(task, backbone, data, device="cuda", out=tmp_path / "cuda", **options)
    assert found == expected
