"""Real processes: ranks that share a run, processes that want the same features, one that is killed while it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

# A job as in the room's conftest, but in a process of its own: argv is a JSON of what to do.
SCRIPT = """
import json, os, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, {folder!r})
from conftest import FakeCatalog, MeanColour, coloured_set
from evaluate import task
from evaluate.frozen import representation
from evaluate.checkpoints.load import LoadedBackbone
from evaluate.task import Job, resolve_protocol
from pretrain.backbones import registry
from pretrain.runtime.errors import InputError
from pretrain.backbones.handover import BackboneMetadata

told = json.loads(sys.argv[1])

class Slow(MeanColour):
    def maps(self, images):
        stalls = self.calls == told.get("stall_after")
        time.sleep(600 if stalls else told.get("sleep_s", 0.0))
        if told.get("nan_above") is not None and images.mean() > told["nan_above"]:
            images = images * float("nan")
        return super().maps(images)

module = Slow().eval().requires_grad_(False)
metadata = BackboneMetadata(backbone="mean_colour", method="test")
backbone = LoadedBackbone(module, metadata, "random:mean_colour", registry.fingerprint(module), "random")
catalog = FakeCatalog(
    train=coloured_set("train", told["train"]), test=coloured_set("test", told["test"]).subset(range(told["n_test"]))
)
out = Path(told["out"])
out.mkdir(parents=True, exist_ok=True)
representation.MOST_AT_ONCE = told.get("batch", representation.MOST_AT_ONCE)
job = Job(
    backbone=backbone,
    catalog=catalog,
    data="colours",
    protocol=resolve_protocol(told["task"], told["protocol"], told["changes"]),
    seed=0,
    device=torch.device("cpu"),
    out=out,
    cache=Path(told["cache"]),
)
print("ready", flush=True)
try:
    rows = task.run(told["task"], job)
except InputError as error:
    print(error)
    sys.exit(2)
(out / f"rows-{{os.environ.get('RANK', '0')}}.json").write_text(
    json.dumps({{"rows": [row.model_dump(mode="json") for row in rows], "calls": module.calls}})
)
"""


def start(told: dict[str, Any], rank: int = 0, world_size: int = 1) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "MASTER_", "RANK", "WORLD_", "LOCAL_"))}
    ranks = {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)} if world_size > 1 else {}
    script = SCRIPT.format(folder=str(Path(__file__).parent))
    return subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(told)],
        env={**clean, **ranks, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes: list[subprocess.Popen[str]], code: int = 0) -> list[str]:
    said = []
    for process in processes:
        out, errors = process.communicate(timeout=120)
        assert process.returncode == code, errors
        said.append(out)
    return said


def told_of(tmp_path: Path, task: str, protocol: str, changes: dict[str, Any], **others: Any) -> dict[str, Any]:
    plain = {"train": 40, "test": 21, "n_test": 61, "cache": str(tmp_path / "cache"), "out": str(tmp_path / "out")}
    return {**plain, "task": task, "protocol": protocol, "changes": changes, **others}


def rows_of(told: dict[str, Any], rank: int = 0) -> dict[str, Any]:
    return json.loads((Path(told["out"]) / f"rows-{rank}.json").read_text())


@pytest.mark.long
@pytest.mark.parametrize(
    ("name", "protocol", "changes"),
    [
        ("linear", "moco_v3", {"global_batch_size": 40, "epochs": 2}),
        ("linear", "fast_moco", {"global_batch_size": 40, "epochs": 2}),
        ("linear", "byol", {"global_batch_size": 36, "epochs": 4, "held_out": 0.1}),
        ("linear", "sweep", {"min_steps": 20}),
        ("finetune", "barlow_twins", {"global_batch_size": 40, "epochs": 2, "bn": "sync"}),
    ],
)
def test_two_ranks_give_what_one_gives_and_count_each_image_once(
    tmp_path: Path, name: str, protocol: str, changes: dict[str, Any]
) -> None:
    """61 test images: two ranks cannot share them evenly, so that padding has to be taken off."""
    one = told_of(tmp_path / "one", name, protocol, changes)
    two = told_of(tmp_path / "two", name, protocol, changes)
    finish([start(one), *(start(two, rank, 2) for rank in range(2))])
    alone, shared = rows_of(one)["rows"], rows_of(two)["rows"]
    assert [row["n"] for row in shared] == [61] * len(shared)
    assert [(row["name"], row["value"]) for row in shared] == [(row["name"], row["value"]) for row in alone]
    files = [load_file(Path(told["out"]) / "head.safetensors") for told in (one, two)]
    np.testing.assert_allclose(files[1]["weight"], files[0]["weight"], rtol=2e-4, atol=1e-5)
    correct = [np.load(Path(told["out"]) / "correct.npy") for told in (one, two)]
    np.testing.assert_array_equal(*correct)


@pytest.mark.long
def test_ranks_share_the_extraction(tmp_path: Path) -> None:
    told = told_of(tmp_path, "knn", "dino", {}, batch=8)
    finish([start(told, rank, 2) for rank in range(2)])
    found = [rows_of(told, rank) for rank in range(2)]
    assert [row["name"] for row in found[0]["rows"]][:2] == ["top1", "mean_per_class"]
    assert found[1]["rows"] == []  # it has helped to extract, and the rest is the first one's
    assert [one["calls"] for one in found] == [8 + 4, 8 + 4]  # 60 + 60 of train, 30 + 31 of test, 8 at a time
    alone = told_of(tmp_path, "knn", "dino", {}, cache=str(tmp_path / "other"), out=str(tmp_path / "alone"))
    finish([start(alone)])
    assert rows_of(alone)["rows"] == found[0]["rows"]
    stored = [sorted((tmp_path / name / "features").glob("*.npy")) for name in ("cache", "other")]
    assert [path.name for path in stored[0]] == [path.name for path in stored[1]]
    for ours, theirs in zip(*stored, strict=True):
        np.testing.assert_allclose(np.load(ours), np.load(theirs), rtol=1e-5, atol=1e-6)
    assert not list((tmp_path / "cache").rglob(".*.partial"))


@pytest.mark.long
def test_what_one_rank_refuses_all_refuse(tmp_path: Path) -> None:
    """Only the second rank's share holds the image that gives NaN; neither hangs, and both say the same sentence."""
    told = told_of(tmp_path, "knn", "dino", {}, batch=1, nan_above=0.9)
    said = finish([start(told, rank, 2) for rank in range(2)], code=2)
    sentences = {one.splitlines()[-1] for one in said}
    assert len(sentences) == 1
    assert "gives features with NaN or infinity for picture" in sentences.pop()
    assert not list((tmp_path / "cache").rglob("*.npy"))


@pytest.mark.long
def test_processes_that_race_for_the_same_features_compute_them_once(tmp_path: Path) -> None:
    tolds = [
        told_of(tmp_path, "knn", "dino", {}, batch=20, sleep_s=0.1, out=str(tmp_path / f"out{i}")) for i in range(4)
    ]
    finish([start(told) for told in tolds])
    found = [rows_of(told) for told in tolds]
    assert sum(one["calls"] for one in found) == 6 + 4  # 120 and 61 images, 20 at a time
    assert all(one["rows"] == found[0]["rows"] for one in found)


@pytest.mark.long
def test_one_that_is_killed_while_it_writes_leaves_nothing_that_counts(tmp_path: Path) -> None:
    told = told_of(tmp_path, "knn", "dino", {}, batch=4)
    killed = start({**told, "stall_after": 20})
    folder = tmp_path / "cache/features"
    deadline = time.monotonic() + 60
    while not list(folder.glob(".*.partial")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    waiting = start({**told, "out": str(tmp_path / "waiting")})
    assert waiting.stdout is not None
    waiting.stdout.readline()  # "ready": it now wants what the other computes
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    finish([waiting])
    whole = told_of(tmp_path, "knn", "dino", {}, cache=str(tmp_path / "other"), out=str(tmp_path / "whole"))
    finish([start(whole)])
    assert rows_of({"out": str(tmp_path / "waiting")})["rows"] == rows_of(whole)["rows"]
    assert not list(folder.glob(".*.partial"))
    names = [sorted(path.name for path in (tmp_path / name / "features").glob("*.npy")) for name in ("cache", "other")]
    assert names[0] == names[1]
