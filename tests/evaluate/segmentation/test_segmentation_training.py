"""Runs from end to end: files, frozen trunks, kills and resumptions, ranks, and a probe that beats the majority."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluate import task
from evaluate.protocols.segmentation import PROTOCOLS
from evaluate.segmentation import scores
from evaluate.segmentation import training as training_module
from evaluate.task import Job
from pretrain.data.catalog import Catalog
from pretrain.data.readers.masks import check_masks
from pretrain.runtime.curves import read_curves
from pretrain.runtime.errors import InputError, RunFailedError
from results.row import Metric

SHORT = {"iterations": 8, "save_every": 2, "log_every": 1, "pictures": 2}
# A job on the processor in a process of its own: `python -c SCRIPT CATALOG OUT STEP_MS CHANGES`.
SCRIPT = """
import json, sys, time
from pathlib import Path
import torch
from evaluate import task
from evaluate.checkpoints.load import load_backbone
from evaluate.segmentation.training import Training
from pretrain.data.catalog import Catalog
from pretrain.runtime.errors import Interrupted

catalog, out, step_ms, changes = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), json.loads(sys.argv[4])
torch.set_num_threads(1)
step = Training._step
Training._step = lambda *a: (time.sleep(step_ms / 1000), step(*a))[1]
job = task.Job(
    load_backbone("random:cifar_resnet20", seed=3), Catalog.load(Path(catalog)), "tiny",
    task.resolve_protocol("segmentation", "fcn_small", changes), 0, torch.device("cpu"), out, out.parent / "cache",
)
try:
    rows = task.run("segmentation", job)
except Interrupted as stopped:
    sys.exit(128 + stopped.signum)
print(json.dumps({row.name: row.value for row in rows}))
"""


def values(rows: list[Metric]) -> dict[str, float]:
    return {row.name: row.value for row in rows if row.selection == "last"}


def started(tiny: Path, out: Path, *, step_ms: float = 0, launcher: tuple[str, ...] = (), **changes: Any) -> Any:
    changes = {"crop": 32, "global_batch_size": 4, **SHORT, **changes}
    script = out.parent / "job.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(SCRIPT)
    return subprocess.Popen(
        [*(launcher or (sys.executable,)), str(script), str(tiny), str(out), str(step_ms), json.dumps(changes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finished(process: Any, code: int = 0) -> dict[str, float]:
    out, error = process.communicate(timeout=120)
    assert process.returncode == code, error
    return json.loads(out.splitlines()[-1]) if code == 0 else {}


def wait_for_state(out: Path, process: Any) -> None:
    deadline = time.monotonic() + 60
    while not list((out / "state").glob("step_*.pt")):
        assert time.monotonic() < deadline, "no state within 60 s"
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def test_a_run_leaves_rows_matrix_pictures_curves_and_a_segmentor(job: Callable[..., Job]):
    this = job("fcn_small", **SHORT, evaluate_every=4)
    rows = task.run("segmentation", this)
    last = values(rows)
    assert list(last) == ["mIoU", "mAcc", "aAcc", "IoU/ground", "IoU/disc", "IoU/square"]
    matrix = np.load(this.out / "confusion.npy")
    assert (matrix.shape, matrix.sum()) == ((3, 3), 5 * 47 * 64)  # one row of each mask does not count
    intersection = np.array([matrix[k, k] for k in range(3)])
    union = np.array([matrix[k].sum() + matrix[:, k].sum() - matrix[k, k] for k in range(3)])
    assert last["mIoU"] == pytest.approx(100 * (intersection / union).mean(), abs=1e-6)
    assert last == values(scores.metrics(matrix, ("ground", "disc", "square"), 5))
    (best,) = [row for row in rows if row.selection == "best"]
    assert best.value >= last["mIoU"]
    assert best.detail["step"] in (4, 8)
    assert (this.out / "pictures" / "predictions.png").read_bytes().startswith(b"\x89PNG")
    curve = read_curves(this.out / "metrics.jsonl")
    assert [point["step"] for point in curve if "loss" in point] == list(range(1, 9))
    assert [point["step"] for point in curve if "mIoU" in point] == [4, 8]
    assert curve[0]["lr"] == pytest.approx(this.protocol.lr_at(0))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(this.out)).Reload()
    assert {"loss", "mIoU"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["predictions"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("ade20k_upernet_160k", marks=pytest.mark.long),
        "voc12aug_deeplabv3plus_20k",
        "cityscapes_deeplabv3plus_40k",  # slides its window
        "voc12aug_fcn_30k",
        "linear",
    ],
)
def test_every_head_builds_trains_and_measures(job: Callable[..., Job], name: str):
    """A step on a ResNet-18, with whichever operators mmcv has: mmcv-lite has none of its own."""
    short = {"iterations": 1, "warmup_iterations": 0, "evaluate_every": 0, "global_batch_size": 2, "pictures": 0}
    this = job(name, ref="random:resnet18", **short)
    rows = values(task.run("segmentation", this))
    assert {"mIoU", "mAcc", "aAcc"} < rows.keys()
    assert all(0 <= value <= 100 for value in rows.values())
    tensors = torch.load(this.out / "segmentor.pth", weights_only=True)["state_dict"]
    moved = not torch.equal(tensors["backbone.layer1.0.conv1.weight"], this.backbone.module.layer1[0].conv1.weight)
    assert moved == (this.protocol.trunk == "finetune")


def test_fine_tuning_learns_the_tiny_set(job: Callable[..., Job]):
    rows = values(task.run("segmentation", job("fcn_small", iterations=40, base_lr=0.1, pictures=0)))
    assert rows["aAcc"] > 90
    assert rows["mIoU"] > 60  # always saying "ground" gives 26


def test_mask_values_reach_the_loss_as_classes(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch):
    from evaluate.segmentation.library import load

    load()
    from mmseg.models.decode_heads.decode_head import BaseDecodeHead

    seen: set[int] = set()
    stack = BaseDecodeHead._stack_batch_gt
    monkeypatch.setattr(
        BaseDecodeHead,
        "_stack_batch_gt",
        lambda s, d: (lambda t: (seen.update(t.unique().tolist()), t)[1])(stack(s, d)),
    )
    task.run("segmentation", job("fcn_small", **{**SHORT, "iterations": 2}))
    assert seen == {0, 1, 2, 255}


def test_a_frozen_trunk_stays_the_checkpoint_and_a_moved_one_is_refused(
    job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    this = job("smoke", **SHORT)
    task.run("segmentation", this)
    written = torch.load(this.out / "segmentor.pth", weights_only=True)["state_dict"]
    for name, tensor in this.backbone.module.state_dict().items():
        assert torch.equal(written[f"backbone.net.{name}"], tensor)
    step = training_module.Training._step

    def moving(self: Any, *arguments: Any) -> Any:
        next(self.segmentor.backbone.buffers()).add_(1e-3)
        return step(self, *arguments)

    monkeypatch.setattr(training_module.Training, "_step", moving)
    with pytest.raises(RunFailedError, match="the frozen backbone changed"):
        task.run("segmentation", job("smoke", out=tmp_path / "other", **SHORT))


@pytest.mark.long
def test_killed_and_resumed_runs_end_with_the_same_bits(tiny: Path, tmp_path: Path):
    whole = finished(started(tiny, tmp_path / "a" / "run"))
    out = tmp_path / "b" / "run"
    process = started(tiny, out, step_ms=150)
    wait_for_state(out, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "confusion.npy").exists()
    process = started(tiny, out, step_ms=150)
    wait_for_state(out, process)
    while not any(point["step"] >= 3 for point in read_curves(out / "metrics.jsonl")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    finished(process, code=128 + signal.SIGTERM)
    assert finished(started(tiny, out)) == whole
    assert np.array_equal(np.load(out / "confusion.npy"), np.load(tmp_path / "a" / "run" / "confusion.npy"))
    one, other = (
        torch.load(p / "run" / "segmentor.pth", weights_only=True)["state_dict"]
        for p in (tmp_path / "a", tmp_path / "b")
    )
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [p["step"] for p in read_curves(out / "metrics.jsonl") if "loss" in p] == list(range(1, 9))


@pytest.mark.long
def test_two_processes_measure_what_one_does(tiny: Path, tmp_path: Path):
    # Statistics over all ranks, equal halves of each batch: the same run but for the order of float sums.
    changes = {"dropout": 0.0, "iterations": 6, "save_every": 100}
    one = finished(started(tiny, tmp_path / "one" / "run", **changes))
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    process = started(tiny, tmp_path / "two" / "run", launcher=torchrun, **changes)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    both = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    assert len(both) == 2
    assert both[0] == both[1] == pytest.approx(one, abs=0.5)
    matrix = np.load(tmp_path / "two" / "run" / "confusion.npy")
    assert matrix.sum() == 5 * 47 * 64  # each image once


def test_a_state_of_another_run_is_refused(job: Callable[..., Job]):
    task.run("segmentation", job("fcn_small", **SHORT))
    with pytest.raises(InputError, match=r"was made with base_lr 0\.01, now it is 0\.02; choose another --out"):
        task.run("segmentation", job("fcn_small", **SHORT, base_lr=0.02))
    with pytest.raises(InputError, match="was made with seed 0, now it is 1"):
        task.run("segmentation", job("fcn_small", **SHORT, seed=1))


def test_an_exploding_loss_is_told_with_its_step(job: Callable[..., Job]):
    with pytest.raises(RunFailedError, match=r"the loss is (nan|inf) at step \d+ of 8; a smaller base_lr"):
        task.run("segmentation", job("fcn_small", **SHORT, base_lr=1e30))


def test_wrong_masks_are_found_before_training(job: Callable[..., Job], tiny: Path, tmp_path: Path):
    (tmp_path / "catalog.yaml").write_text(tiny.read_text().replace("ground, disc, square", "ground, disc"))
    for part in ("train", "train_masks", "test", "test_masks"):
        (tmp_path / part).symlink_to(tiny.parent / part)
    this = job("fcn_small", **SHORT)
    this = Job(**{**vars(this), "catalog": Catalog.load(tmp_path / "catalog.yaml")})
    with pytest.raises(InputError, match=r"train_masks/00\.png holds label 2, which is beyond the 2 classes"):
        task.run("segmentation", this)
    assert not (this.out / "state").exists()


def test_a_batch_that_ranks_cannot_share_is_refused(job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch):
    from pretrain.runtime.distributed import Ranks

    protocol = job("fcn_small").protocol.override({"global_batch_size": 5})
    with pytest.raises(InputError, match="global_batch_size 5 cannot be split over 2 processes"):
        training_module.Training(
            None,
            protocol,
            None,
            None,
            identity={},
            out=Path(),
            device=torch.device("cpu"),
            ranks=Ranks(0, 2),
            stop=None,
        )


# What `fastmoco pretrain --recipe shapes_demo --data shapes` left (seed 0), stored in half precision;
# pretraining that much takes longer than all tests of this folder.
FAST_MOCO = Path(__file__).parent / "fast_moco_shapes_demo.safetensors"


@pytest.mark.long
def test_smoke_from_a_fast_moco_checkpoint_clearly_beats_the_majority_class(tmp_path: Path):
    from evaluate.checkpoints.load import load_backbone

    catalog_path = tmp_path / "catalog.yaml"
    catalog_path.write_text("scenes_: {format: shapes-scenes, size: 128, train: 300, test: 50, seed: 0}\n")
    catalog, backbone = Catalog.load(catalog_path), load_backbone(FAST_MOCO)
    assert (backbone.metadata.method, backbone.metadata.recipe) == ("fast_moco", "shapes_demo")
    device = torch.device("cpu")
    this = Job(backbone, catalog, "scenes_", PROTOCOLS["smoke"], 0, device, tmp_path / "run", tmp_path / "cache")
    rows = values(task.run("segmentation", this))
    majority = check_masks(catalog.masks("scenes_", "test"), tmp_path / "cache").majority_miou
    assert majority == pytest.approx(7.9, abs=0.1)
    assert rows["mIoU"] > 1.3 * majority
    assert rows["IoU/background"] > 88  # always saying "background" gives 87


@pytest.mark.parametrize(("protocol", "refused"), [("voc12aug_deeplabv3plus_20k", True), ("fcn_small", False)])
def test_one_image_a_batch_is_refused_where_a_head_pools_it_to_one_pixel(
    job: Callable[..., Job], protocol: str, refused: bool
) -> None:
    """It was batch norm's traceback, after the masks had been read."""
    small = {"global_batch_size": 1, "iterations": 2, "pictures": 0, "head_channels": 32}
    one = job(protocol, **small)
    if not refused:
        assert task.run("segmentation", one)
        return
    with pytest.raises(InputError, match="global_batch_size is 1, and head 'deeplabv3plus' pools an image to 1 pixel"):
        task.run("segmentation", one)
