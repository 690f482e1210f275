from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FASTMOCO = str(Path(sys.executable).with_name("fastmoco"))
SMALL = (
    "warmup_epochs: 0, global_batch_size: 32, train_images: null, log_every_steps: 1, "
    "views.size: 16, projector.hidden: 32, predictor.hidden: 32"
)


class Campaign:
    def __init__(self, folder: Path, spec: str) -> None:
        self.root, self.spec = folder / "root", folder / "spec.yaml"
        self.spec.write_text(spec)
        self.catalog = folder / "catalog.yaml"
        self.catalog.write_text("tiny: {format: shapes, size: 32, train: 128, test: 64, seed: 0}\n")

    def start(self, verb: str, *words: str) -> subprocess.Popen[str]:
        command = [FASTMOCO, "--catalog", str(self.catalog), "campaign", verb, str(self.spec), *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*command, "--root", str(self.root)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def do(self, verb: str, *words: str, expect: int = 0) -> str:
        process = self.start(verb, *words)
        out, err = process.communicate(timeout=300)
        assert process.returncode == expect, out + err
        return out + err

    def starts(self) -> dict[str, int]:
        runs = sorted((self.root / "runs").iterdir())
        return {run.name.split("-")[0]: (run / "attempts.jsonl").read_text().count('"start"') for run in runs}


def whole(epochs: int) -> str:
    return (
        f"name: whole\npretrain: {{m: {{recipe: shapes_demo, data: tiny, set: {{epochs: {epochs}, {SMALL}}}}}}}\n"
        "checkpoints: {random: {backbone: cifar_resnet20, init: random}}\n"
        "evaluate: [{task: knn, data: tiny}]\n"
    )


@pytest.mark.long
@pytest.mark.parametrize("cluster", ["local", "debug"])
def test_a_campaign_is_done_once(tmp_path: Path, cluster: str) -> None:
    campaign = Campaign(tmp_path, whole(2))
    told = campaign.do("run", "--cluster", cluster)
    assert "3 done" in told
    assert "tensorboard --logdir" in told
    assert "Summary" in told
    assert "3 runs: 3 done" in campaign.do("run", "--cluster", cluster)
    assert all((run / "attempts.jsonl").read_text().count("start") == 1 for run in (campaign.root / "runs").iterdir())
    assert "3 done" in campaign.do("status")


@pytest.mark.long
def test_a_failed_run_stops_only_those_that_need_it(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, whole(2).replace("train_images: null", "train_images: 999"))
    told = campaign.do("run", expect=1)
    assert "1 of 3 runs failed, 1 that need them were skipped" in told
    status = campaign.do("status")
    assert "1 done, 1 failed, 1 skipped" in status
    assert "train_images is 999" in status
    (failed,) = [run for run in (campaign.root / "runs").iterdir() if (run / "failed.json").exists()]
    assert json.loads((failed / "failed.json").read_text())["exit_code"] == 2
    assert "train_images is 999" in campaign.do("logs", "pretrain-")
    assert "needed by:" in campaign.do("explain", "pretrain-")
    assert "1 of 2 runs failed" in campaign.do("retry", expect=1)


@pytest.mark.long
def test_two_at_the_same_moment_share_the_work(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, whole(30))
    both = [campaign.start("run"), campaign.start("run")]
    told = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    for run in (campaign.root / "runs").iterdir():
        assert (run / "attempts.jsonl").read_text().count('"start"') == 1, run.name


@pytest.mark.long
def test_a_stopped_campaign_saves_and_goes_on(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, whole(60))
    process = campaign.start("run")
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in campaign.root.glob("runs/pretrain-*/metrics.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, told
    assert "1 interrupted" in campaign.do("status")
    campaign.do("run")
    (curve,) = campaign.root.glob("runs/pretrain-*/metrics.jsonl")
    assert [json.loads(line)["step"] for line in curve.read_text().splitlines()] == list(range(1, 241))


@pytest.mark.long
def test_a_run_cancelled_by_somebody_else_ends_the_campaign_without_what_needs_it(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, whole(60))
    process = campaign.start("run")
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in campaign.root.glob("runs/pretrain-*/metrics.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "asked process" in campaign.do("cancel", "pretrain-")
    _, told = process.communicate(timeout=120)
    assert process.returncode == 1, told
    assert "1 runs were stopped from outside" in told
    assert "1 done, 1 cancelled, 1 skipped" in campaign.do("status")
    assert "3 done" in campaign.do("run")
    assert campaign.starts()["pretrain"] == 2


@pytest.mark.long
def test_two_ranks_of_torchrun_pretrain_together(tmp_path: Path) -> None:
    (tmp_path / "catalog.yaml").write_text("tiny: {format: shapes, size: 32, train: 128, test: 64, seed: 0}\n")
    changes = "epochs=2 warmup_epochs=0 global_batch_size=32 train_images=null log_every_steps=1 views.size=16"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    command += [FASTMOCO, "--catalog", str(tmp_path / "catalog.yaml"), "pretrain", "--recipe", "shapes_demo"]
    command += ["--data", "tiny", "--out", str(tmp_path / "out"), "--device", "cpu"]
    for change in [*changes.split(), "projector.hidden=32", "predictor.hidden=32"]:
        command += ["--set", change]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # 128 images, 32 a step over both ranks: 4 steps an epoch, each written once.
    steps = [json.loads(line)["step"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 9))
    assert json.loads((tmp_path / "out" / "run.json").read_text())["world_size"] == 2
