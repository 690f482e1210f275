"""A run from end to end: what it leaves, what it refuses, and that a killed one ends with the same bits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluate import task
from evaluate.checkpoints.load import LoadedBackbone
from evaluate.task import Job
from pretrain.data.catalog import Catalog, CocoEntry, CocoSplit, VocEntry
from pretrain.runtime.curves import read_curves
from pretrain.runtime.errors import InputError

WORKER = Path(__file__).parent / "detection_worker.py"
MakeJob = Callable[..., Job]


@pytest.mark.long
def test_a_run_leaves_rows_pictures_curves_and_a_detector(detection_job: MakeJob) -> None:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    registered = (DatasetCatalog.list(), MetadataCatalog.list())
    job = detection_job("smoke_r18_fpn", {"mask_resolution": 7, "box_fc": 32})
    rows = {row.name: row for row in task.run("detection", job)}
    assert {"AP", "AP50", "AP75", "mask_AP", "mask_AP50", "mask_AP75"} <= rows.keys()
    assert (DatasetCatalog.list(), MetadataCatalog.list()) == registered  # nothing global was touched
    assert all(0 <= row.value <= 100 and row.n == 3 and row.selection == "last" for row in rows.values())
    assert rows["AP"].detail == {"interpolation": "101 points (COCO)"}
    with Image.open(job.out / "pictures" / "detections.png") as picture:
        assert picture.width == 578
    points = read_curves(job.out / "metrics.jsonl")
    assert points[-1]["AP50"] == rows["AP50"].value
    assert {"loss_mask", "loss_cls", "loss_box_reg", "loss_rpn_cls", "lr"} <= points[0].keys()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(job.out)).Reload()
    assert {"loss_mask", "AP50", "mask_AP"} <= set(events.Tags()["scalars"])
    assert events.Tags()["images"] == ["detections"]
    state = torch.load(job.out / "detector.pth", weights_only=True)["model"]
    assert state["backbone.bottom_up.res2.0.conv1.weight"].shape == (64, 64, 3, 3)
    assert "BASE_LR" in (job.out / "detectron2.yaml").read_text()


def run_worker(out: Path, *, max_iter: int, check: bool = True) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), str(out), str(max_iter)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    return process


@pytest.mark.long
def test_a_killed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    """SIGKILL once the first state is on the disk: the second process goes on from it, on the same schedule."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_worker(whole, max_iter=10)
    process = run_worker(killed, max_iter=10, check=False)
    deadline = time.monotonic() + 120
    while not list((killed / "state").glob("step_*.pt")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "detector.pth").exists()
    run_worker(killed, max_iter=10)
    states = [torch.load(folder / "detector.pth", weights_only=True)["model"] for folder in (whole, killed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    curves = [read_curves(folder / "metrics.jsonl") for folder in (whole, killed)]
    assert curves[0] == curves[1]
    rows = [json.loads((folder / "rows.json").read_text()) for folder in (whole, killed)]
    assert rows[0] == rows[1]


@pytest.mark.long
def test_another_runs_state_is_refused(detection_job: MakeJob) -> None:
    task.run("detection", detection_job())
    with pytest.raises(InputError, match=r"was made with base_lr 0.02, now it is 0.01; choose another --out"):
        task.run("detection", detection_job(changes={"base_lr": 0.01}))


@pytest.mark.long
def test_two_ranks_train_one_detector(tmp_path: Path) -> None:
    """Both measure the whole split: their rows are the same."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run([*command, str(WORKER), str(tmp_path), "4"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    first, second = (json.loads((tmp_path / f"rows{rank}.json").read_text()) for rank in ("", "1"))
    assert first == second


def coco_catalog(folder: Path, *, annotations: list[dict[str, object]], size: int = 64) -> Catalog:
    Image.fromarray(np.zeros((64, 64, 3), dtype=np.uint8)).save(folder / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": size, "height": 64}],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": annotations,
    }
    (folder / "a.json").write_text(json.dumps(content))
    part = CocoSplit(images=str(folder), json=str(folder / "a.json"))
    return Catalog({"theirs": CocoEntry(format="coco", train=part, test=part)})


BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20]}


def test_bad_data_is_told(detection_job: MakeJob, tmp_path: Path) -> None:
    def refused(said: str, protocol: str = "smoke_r18_c4", **given: object) -> None:
        with pytest.raises(InputError, match=said):
            task.run("detection", detection_job(protocol, **given))

    refused("no image holds an object", catalog=coco_catalog(tmp_path, annotations=[]), data="theirs")
    boxes = coco_catalog(tmp_path, annotations=[BOX])
    refused(
        r"'smoke_r18_fpn' trains masks, .* split 'train', has objects", "smoke_r18_fpn", catalog=boxes, data="theirs"
    )
    other_size = coco_catalog(tmp_path, annotations=[BOX], size=70)
    refused(r"a.png is 64 x 64 pixels, but its annotation says 70 x 64", catalog=other_size, data="theirs")
    refused("holds no boxes", data="shapes")
    nothing = Catalog({"v": VocEntry(format="voc", root=str(tmp_path), train=("nothing",), test=("nothing",))})
    refused("no list of images", catalog=nothing, data="v")


def test_a_damaged_image_is_named(detection_job: MakeJob, tmp_path: Path) -> None:
    catalog = coco_catalog(tmp_path, annotations=[BOX])
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:60])
    with pytest.raises(InputError, match=r"a.png does not decode"):
        task.run("detection", detection_job(catalog=catalog, data="theirs"))


def test_a_loss_that_is_not_finite_stops_the_run(detection_job: MakeJob, resnet18: LoadedBackbone) -> None:
    from pretrain.runtime.errors import RunFailedError

    with pytest.raises(
        RunFailedError, match=r"(the loss is (nan|inf)|no longer finite) at iteration \d of 6; a smaller"
    ):
        task.run("detection", detection_job(changes={"base_lr": 1e12, "warmup_iters": 0}))


@pytest.mark.long
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("data", "protocol", "classes", "images"),
    [("bccd", "smoke_r18_c4", {"RBC", "WBC", "Platelets"}, 72), ("coco128", "smoke_r18_fpn", {"person", "dog"}, 100)],
)
def test_real_xml_and_json_train_and_measure(
    detection_job: MakeJob, real_data: Path, data: str, protocol: str, classes: set[str], images: int
) -> None:
    """VOC's XML with boxes, COCO's JSON with polygons and crowds, each with its own class list."""
    catalog = Catalog.load(real_data / "catalog.yaml")
    changes = {"max_iter": 2, "steps": [1], "warmup_iters": 1}
    job = detection_job(protocol, changes, catalog=catalog, data=data)
    rows = {row.name: row for row in task.run("detection", job)}
    assert {f"AP/{name}" for name in classes} <= rows.keys()
    assert ("mask_AP/person" in rows) == (data == "coco128")
    assert {row.n for row in rows.values()} == {images}
