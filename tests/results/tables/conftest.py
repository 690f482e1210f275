"""Stores that several files of tests look at."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from results.row import Metric
from results.store import store

Cells = dict[tuple[str, str], dict[str, str]]


@pytest.fixture(scope="session")
def cells() -> Callable[[str], Cells]:
    """A table's CSV as (row, column) -> its fields."""

    def read(text: str) -> Cells:
        return {(row["row"], row["column"]): row for row in csv.DictReader(io.StringIO(text))}

    return read


@pytest.fixture
def marked(tmp_path: Path, make_run, write_done, write_failed_run) -> tuple[str, store.Store]:
    """A definition and runs that bring every mark of our own numbers."""
    root = tmp_path / "marked"
    for label, selection, value in (("fine", "last", 60), ("tuned", "held_out", 61), ("picked", "best", 62)):
        write_done(root, make_run(label), [Metric(name="top1", value=value, selection=selection)])
    write_done(root, make_run("fast_moco", protocol="vissl"), [Metric(name="top1", value=70)])
    for seed, k in ((0, 10), (1, 20)):
        run = make_run("mixed", seed=seed, values={"k": k})
        write_done(root, run, [Metric(name="top1", value=50)])
    write_failed_run(root, make_run("lost"), "the disk is full", "")
    write_failed_run(root, make_run("waiting"), None, "")
    definition = tmp_path / "mine.yaml"
    definition.write_text(
        "title: Mine\nprotocol: [dino]\ncheckpoints: true\nmeasured: {task: knn}\n"
        "columns: [{label: kNN, measured: {metric: top1}}]\n"
    )
    return str(definition), store.load([root])


@pytest.fixture
def everything(full_campaign: Path, make_run, write_done) -> store.Store:
    weights = {"backbone": "resnet50", "epoch": 100}
    for task, data, protocol, values, metrics in (
        ("semi", "imagenet", "simclr", {"labels": "10percent"}, {"top1": 66}),
        ("detection", "voc0712", "voc0712_r50_c4_24k", {}, {"AP": 57, "AP50": 82.5, "AP75": 64}),
        ("detection", "coco2017", "coco_r50_fpn_1x", {}, {"AP": 39, "mask_AP": 34.5}),
        ("segmentation", "cityscapes", "cityscapes_fcn_40k", {}, {"mIoU": 76}),
    ):
        run = make_run("r50", task=task, data=data, protocol=protocol, values=values, checkpoint=weights)
        write_done(full_campaign, run, [Metric(name=name, value=value) for name, value in metrics.items()])
    lrs = {"trunk_lr": {"ten": 0.2}, "head_lr": {"ten": 0.05}}
    for campaign, label, task, value, of, protocol in (
        ("evidence_cifar10", "fast_moco_e20", "linear", 51.5, {}, {}),
        ("evidence_ablation", "r3", "linear", 49.5, {}, {}),
        ("evidence_semi", "fast_moco_e40", "knn", 47.5, {"epoch": 40, "method": "fast_moco"}, {}),
        ("evidence_semi_tuning", "random", "semi", 43.5, {}, {"values": lrs}),
        ("evidence_semi", "moco", "semi", 54.5, {}, {}),
    ):
        run_id = f"{campaign}-{label}"
        run = make_run(label, task=task, campaign=campaign, run_id=run_id, checkpoint=of, **protocol)
        write_done(full_campaign, run, [Metric(name="top1", value=value)])
    made = make_run(kind="pretrain", task="pretrain", protocol="tiny", run_id="pretrain-tiny", wall_s=7236.0)
    write_done(full_campaign, made.model_copy(update={"checkpoint": None}), [Metric(name="loss", value=1, unit="")])
    return store.load([full_campaign])
