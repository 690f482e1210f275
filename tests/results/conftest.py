"""Runs on disk, small and made by hand: what the store, the tables and the report are tested on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.runtime.files import write_json
from results.row import Checkpoint, Data, Metric, Protocol, Result, Run, write_result


def _make_run(label: str = "ours", *, task: str = "knn", seed: int = 0, **changes: Any) -> Run:
    pretrain_seed = changes.pop("pretrain_seed", 0)
    data = changes.pop("data", "cifar10")
    checkpoint = {
        "label": label,
        "ref": f"run:pretrain-{label}-s{pretrain_seed}",
        "sha256": f"{label}-{pretrain_seed}".encode().hex().ljust(64, "0")[:64],
        "method": "fast_moco",
        "backbone": "cifar_resnet20",
        "recipe": "tiny",
        "epoch": 20,
        "pretrain_seed": pretrain_seed,
        "pretrain_data": "cifar10",
        **changes.pop("checkpoint", {}),
    }
    protocol = changes.pop("protocol", "dino" if task == "knn" else "sweep")
    values = changes.pop("values", {"k": [10, 20], "temperature": 0.07})
    return Run(
        **{
            "run_id": f"{task}-{label}-{data}-{protocol}-p{pretrain_seed}-s{seed}",
            "campaign": "small",
            "kind": "evaluate",
            "task": task,
            "protocol": Protocol(name=protocol, values=values),
            "checkpoint": Checkpoint(**checkpoint),
            "data": Data(name=data, identity="d" * 64),
            "seed": seed,
            "code_version": "0.1.0+abc",
            "packages": {"torch": "2.14.1", "numpy": "2.4.6"},
            "command": ["fastmoco", "evaluate", task, "--checkpoint", "backbone.safetensors", "--seed", str(seed)],
            "device": "cpu",
            "host": "node17",
            "started": "2026-11-24T08:00:00Z",
            "ended": f"2026-11-24T08:{10 + seed:02d}:00Z",
            "wall_s": 12.5,
            "peak_mem_bytes": 2_000_000_000,
            **changes,
        }
    )


def _write_done(root: Path, run: Run, metrics: list[Metric], correct: np.ndarray | None = None) -> Path:
    directory = root / "runs" / run.run_id
    directory.mkdir(parents=True)
    write_json(directory / "run.json", run.model_dump(mode="json"))
    write_result(directory, Result(run=run, metrics=metrics))
    if correct is not None:
        np.save(directory / "correct.npy", np.packbits(correct))
    return directory


def write_failed(root: Path, run: Run, error: str | None, log: str = "") -> Path:
    """A run without a result: failed with `error` or, when that is None, unfinished."""
    directory = root / "runs" / run.run_id
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(run.model_dump_json(indent=1))
    (directory / "log.txt").write_text(log)
    if error is not None:
        (directory / "failed.json").write_text(json.dumps({"error": error, "exit_code": 1}))
    return directory


def answers(right: int, n: int, start: int = 0) -> np.ndarray:
    """(n,) bool: `right` samples from `start` on are right."""
    correct = np.zeros(n, dtype=bool)
    correct[(start + np.arange(right)) % n] = True
    return correct


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    return _make_run


@pytest.fixture(scope="session")
def write_done() -> Callable[..., Path]:
    return _write_done


@pytest.fixture(scope="session")
def write_failed_run() -> Callable[..., Path]:
    return write_failed


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    """Two methods of three pretrainings, kNN and a linear probe of two seeds; one failed and one unfinished run."""
    root = tmp_path / "campaign"
    for label, knn, linear in (("fast_moco", 620, 700), ("moco", 560, 695)):
        for pretrain_seed in range(3):
            right = knn + 4 * pretrain_seed
            run = _make_run(label, pretrain_seed=pretrain_seed)
            metric = Metric(name="top1", value=right / 10, n=1000, ci95=(right / 10 - 3, right / 10 + 3))
            _write_done(root, run, [metric], answers(right, 1000, 20 * pretrain_seed))
            for seed in range(2):
                run = _make_run(label, task="linear", pretrain_seed=pretrain_seed, seed=seed)
                right = linear + 5 * pretrain_seed + 10 * seed
                metrics = [
                    Metric(name="top1", value=right / 10, n=1000),
                    Metric(name="top1", value=right / 10 + 1, n=1000, selection="best"),
                ]
                _write_done(root, run, metrics, answers(right, 1000, 7 * pretrain_seed + seed))
    random = _make_run("random", checkpoint={"ref": "random:cifar_resnet20"})
    write_failed(root, random, "loss is not finite at step 12", "step 11 loss 3.2\nstep 12 loss nan\n")
    write_failed(root, _make_run("random", task="linear"), None)
    return root


def _pretraining(root: Path, label: str, seed: int = 0, **changes: Any) -> Path:
    made = {"kind": "pretrain", "task": "pretrain", "run_id": f"pretrain-{label}-s{seed}", "seed": seed, **changes}
    run = _make_run(**made).model_copy(update={"checkpoint": None})
    directory = _write_done(root, run, [Metric(name="loss", value=1.0, unit="", higher_is_better=False)])
    points = [{"step": step, "loss": 5 / (1 + step / 100) + seed / 10} for step in range(0, 1000, 10)]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(point) + "\n" for point in points))
    return directory


@pytest.fixture
def full_campaign(campaign: Path) -> Path:
    """The small campaign with its pretrainings, ImageNet rows of two lengths, an ablation, and detection's sheets."""
    for label, wall_s in (("fast_moco", 7200.0), ("moco", 3600.0)):
        for seed in range(3):
            values = {"method": label, "backbone": "cifar_resnet20"}
            more: dict[str, Any] = {"wall_s": wall_s + 36 * seed, "world_size": 2, "device": "NVIDIA H100"}
            _pretraining(campaign, label, seed, values=values, **more)
    for epoch, value in ((100, 73.1), (200, 75.0)):
        weights = {"label": f"ours_e{epoch}", "ref": "elsewhere.pth", "backbone": "resnet50", "epoch": epoch}
        run = _make_run(weights["label"], task="linear", data="imagenet", protocol="fast_moco", checkpoint=weights)
        _write_done(campaign, run, [Metric(name="top1", value=value)])
    for grid, combine, value in ((1, 1, 50.0), (2, 1, 60.0), (2, 2, 65.0), (3, 3, 62.5)):
        label = f"g{grid}c{combine}"
        _pretraining(campaign, label, values={"method": "fast_moco", "grid": grid, "combine": combine})
        run = _make_run(label, data="shapes", checkpoint={"ref": f"run:pretrain-{label}-s0"})
        _write_done(campaign, run, [Metric(name="top1", value=value)])
    run = _make_run("fast_moco", task="detection", data="scenes", protocol="smoke_r18_fpn")
    directory = _write_done(campaign, run, [Metric(name=name, value=30.0) for name in ("AP", "AP50", "mask_AP")])
    (directory / "pictures").mkdir()
    for index in range(3):
        pixels = np.full((120, 480, 3), 60 * index, np.uint8)
        Image.fromarray(pixels).save(directory / "pictures" / f"sheet_{index}.png")
    return campaign
