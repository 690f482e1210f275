"""What a run keeps of its test images: intervals, shares, scores made again, a training that others take over."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.cli import main
from evaluate.segmentation import scores, tallies
from evaluate.segmentation.tallies import Confusions
from pretrain.runtime.errors import RunFailedError

Command = Callable[..., int]
SHORT = ("iterations=4", "save_every=2", "pictures=0", "crop=32", "evaluate_every=2")


@pytest.fixture
def command(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """command("out", "key=value") -> exit code of `fastmoco evaluate segmentation` on the test's own copy of `tiny`."""
    shutil.copytree(tiny.parent, tmp_path / "set")

    def run(out: str, *settings: str) -> int:
        changes = [part for setting in (*SHORT, *settings) for part in ("--set", setting)]
        given = ["--checkpoint", "random:cifar_resnet20", "--data", "tiny", "--protocol", "smoke", "--device", "cpu"]
        catalog = ["--catalog", str(tmp_path / "set" / "catalog.yaml")]
        arguments = ["fastmoco", *catalog, "evaluate", "segmentation", *given, *changes, "--out", str(tmp_path / out)]
        monkeypatch.setattr(sys, "argv", arguments)
        return left_with()

    return run


def left_with() -> int:
    """The exit code of the command in `sys.argv`."""
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def repaint(path: Path) -> None:
    Image.fromarray(np.asarray(Image.open(path)) ^ 1).save(path)


def test_predictions_are_kept_and_scored_again(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("out") == 0
    out = tmp_path / "out"
    rows = [row for row in json.loads((out / "result.json").read_text())["metrics"] if row["selection"] == "last"]
    assert rows[0]["name"] == "mIoU"
    assert all(row["ci95"][0] <= row["value"] <= row["ci95"][1] for row in rows if row["name"] in ("mIoU", "aAcc"))
    confusions = Confusions.load(out / "predictions" / "confusions.npz")
    assert np.array_equal(confusions.matrix(), np.load(out / "confusion.npy"))
    assert confusions.matrix().sum() == 5 * 47 * 64  # a row of each image does not count
    assert 100 * np.load(out / "shares.npy").mean() == pytest.approx(rows[0]["value"], abs=1e-4)

    catalog = ["--catalog", str(tmp_path / "set" / "catalog.yaml")]
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["fastmoco", *catalog, "predictions", str(out), "--json"])
    assert left_with() == 0
    assert json.loads(capsys.readouterr().out) == rows
    monkeypatch.setattr(sys, "argv", ["fastmoco", *catalog, "predictions", str(out), "--set", "main=aAcc"])
    assert left_with() == 0
    assert capsys.readouterr().out.startswith("aAcc")
    monkeypatch.setattr(sys, "argv", ["fastmoco", *catalog, "predictions", str(out), "--set", "crop=64"])
    assert left_with() == 2
    assert "unknown setting that scoring a segmentation run alone decides 'crop'" in capsys.readouterr().err


@pytest.mark.long
def test_a_repaired_test_image_does_not_train_again(
    command: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "fastmoco")

    def damaged(*_: object) -> None:
        raise RunFailedError("as if a test image were damaged")

    with monkeypatch.context() as patch:
        patch.setattr("evaluate.segmentation.training.Training._measure", damaged)
        assert command("out", "evaluate_every=0") == 1
    repaint(tmp_path / "set/test/01.png")
    assert command("out", "evaluate_every=0") == 0
    assert "resuming at step 4 of 4" in caplog.text
    # The same run in another directory is somebody's second try, and trains.
    caplog.clear()
    assert command("again", "evaluate_every=0") == 0
    assert "resuming" not in caplog.text
    assert np.array_equal(*(np.load(tmp_path / name / "confusion.npy") for name in ("out", "again")))
    # Measured otherwise beside it: the same training. Other training images: another.
    assert command("slid", "evaluate_every=0", "test_mode=slide") == 0
    assert f"the same training lies in {tmp_path}" in caplog.text
    assert "resuming at step 4 of 4" in caplog.text
    caplog.clear()
    repaint(tmp_path / "set/train/01.png")
    assert command("other", "evaluate_every=0") == 0
    assert "resuming" not in caplog.text


@pytest.fixture
def drawn() -> tuple[dict[int, np.ndarray], Confusions]:
    """Ten images of four classes, of which one occurs in one image alone."""
    rng = np.random.default_rng(0)
    matrices = {number: rng.poisson(3, (4, 4)) + 20 * np.diag(rng.poisson(1, 4)) for number in range(10)}
    for number in range(1, 10):
        matrices[number][3] = matrices[number][:, 3] = 0
    return matrices, Confusions.of(matrices, 10, 4)


def test_intervals_are_those_of_a_slow_bootstrap(
    drawn: tuple[dict[int, np.ndarray], Confusions], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrices, confusions = drawn
    monkeypatch.setattr(tallies, "DRAWS", 60)
    rows = {row.name: row.ci95 for row in tallies.metrics(confusions, ("a", "b", "c", "d"))}
    weights = np.random.default_rng(0).multinomial(10, np.full(10, 0.1), size=60)
    slow: dict[str, list[float]] = {name: [] for name in ("mIoU", "mAcc", "aAcc")}
    for row in weights:
        total = sum(matrices[number] for number in np.repeat(np.arange(10), row))
        for name, value in scores.summary(total).items():
            slow[name].append(value)
    for name, values in slow.items():
        assert rows[name] == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    confusions.save(tmp_path / "x.npz")
    again = Confusions.load(tmp_path / "x.npz")
    assert np.array_equal(again.matrix(), confusions.matrix())


@pytest.mark.parametrize("main_metric", ["mIoU", "mAcc", "aAcc"])
def test_shares_are_the_value_and_its_derivative(
    drawn: tuple[dict[int, np.ndarray], Confusions], main_metric: str
) -> None:
    matrices, confusions = drawn
    found = tallies.shares(confusions, main_metric)
    value = scores.summary(confusions.matrix())[main_metric] / 100
    assert found.mean() == pytest.approx(value)
    for number in range(10):
        step = 1e-6 * matrices[number]
        high, low = (scores.summary(confusions.matrix() + sign * step)[main_metric] / 100 for sign in (1, -1))
        assert found[number] - value == pytest.approx(10 * (high - low) / 2e-6, abs=1e-6)
