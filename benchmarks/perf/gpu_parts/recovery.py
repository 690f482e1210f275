"""Whole commands on a device: ranks, a full memory, a stop in mid-step, and whether anything is learnt."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.perf.gpu_parts.machine import Machine
from pretrain.runtime.distributed import gather, process_group

_PRETRAIN = ("--recipe", "shapes_demo", "--data", "shapes")


def _fastmoco(*words: str, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-P", "-m", "benchmarks.cli", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _settings(**changes: object) -> list[str]:
    return [word for key, value in changes.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]


def ranks(machine: Machine) -> dict[str, Any]:
    """A group of one rank: what it computes is what went in."""
    with tempfile.TemporaryDirectory() as folder, process_group(machine.device, Path(folder)) as group:
        value = torch.arange(8.0, device=machine.device)
        alone = torch.equal(gather(value), value)
        backend = "none: one rank needs no group"
        if machine.device.type == "cuda":
            store = torch.distributed.HashStore()
            torch.distributed.init_process_group("nccl", store=store, rank=0, world_size=1)
            try:
                reduced = value.clone()
                torch.distributed.all_reduce(reduced)
                alone, backend = alone and torch.equal(reduced, value), "nccl"
            finally:
                torch.distributed.destroy_process_group()
        return {"world_size": group.world_size, "equal": alone, "backend": backend}


def out_of_memory(machine: Machine) -> dict[str, Any]:
    """The last line and exit code of a pretraining whose batch cannot fit."""
    if machine.device.type != "cuda":
        return {"left": "a CPU's memory is not filled on purpose"}
    with tempfile.TemporaryDirectory() as folder:
        changes = _settings(backbone="resnet50", views__size=224, global_batch_size=8000, train_images="null", epochs=1)
        words = ["pretrain", "--recipe", "shapes_demo", "--data", "shapes", "--out", "run", "--device", "cuda"]
        process = _fastmoco(*words, *changes, *_settings(warmup_epochs=0), folder=Path(folder))
        told, _ = process.communicate(timeout=120)
        return {"exit_code": process.returncode, "last_line": (told.strip().splitlines() or [""])[-1][-500:]}


def _losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def resume(machine: Machine) -> dict[str, Any]:
    """Greatest difference of any step's loss between a run that was stopped and resumed and one that was not."""
    changes = _settings(epochs=machine.pick(3, 2), log_every_steps=1, save_every_steps=1000, warmup_epochs=0)
    changes += _settings(train_images=machine.pick(1000, 128), global_batch_size=32)
    device = ("--device", machine.device.type)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = _fastmoco("pretrain", *_PRETRAIN, *changes, "--out", "whole", *device, folder=folder)
        told, _ = whole.communicate(timeout=300)
        assert whole.returncode == 0, told[-2000:]
        cut = _fastmoco("pretrain", *_PRETRAIN, *changes, "--out", "cut", *device, folder=folder)
        curve = folder / "cut" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while cut.poll() is None and not (curve.exists() and curve.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.02)
        cut.send_signal(signal.SIGTERM)
        cut.communicate(timeout=120)
        stopped_at = len(_losses(folder / "cut"))
        again = _fastmoco("pretrain", *_PRETRAIN, *changes, "--out", "cut", *device, folder=folder)
        told, _ = again.communicate(timeout=300)
        assert again.returncode == 0, told[-2000:]
        one, other = _losses(folder / "whole"), _losses(folder / "cut")
    assert len(one) == len(other)
    difference = max(abs(a - b) for a, b in zip(one, other, strict=True))
    return {"exit_code_of_stop": cut.returncode, "stopped_at": stopped_at, "steps": len(one), "difference": difference}


def learning(machine: Machine) -> dict[str, Any]:
    """kNN top-1 after the same few epochs of the demo's recipe, with and without combined patches."""
    result: dict[str, Any] = {}
    common = _settings(epochs=machine.pick(6, 1), train_images=machine.pick(2000, 128), warmup_epochs=0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for method, changes in (("fast_moco", []), ("one_positive", _settings(grid=1, combine=1))):
            device = ("--device", machine.device.type)
            words = ("pretrain", *_PRETRAIN, *common, *changes, "--out", method, *device)
            told, _ = (process := _fastmoco(*words, folder=folder)).communicate(timeout=600)
            assert process.returncode == 0, told[-2000:]
            words = ("evaluate", "knn", "--checkpoint", f"{method}/backbone.safetensors", "--data", "shapes", *device)
            limits = _settings(train_limit=200, test_limit=50, k=10) if machine.small else []
            told, _ = (process := _fastmoco(*words, *limits, "--out", f"knn-{method}", folder=folder)).communicate()
            assert process.returncode == 0, told[-2000:]
            metrics = json.loads((folder / f"knn-{method}" / "result.json").read_text(encoding="utf-8"))["metrics"]
            result[method] = metrics[0]["value"]
    return result
