"""Wrong masks end with exit code 2 and one sentence that names the file; the log says what batch and lengths became."""

from __future__ import annotations

import logging
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import doctor
from benchmarks.cli import main


@pytest.fixture
def own(tiny: Path, tmp_path: Path) -> Path:
    """A catalog of the test's own copy of the set `tiny`, for mistakes to be put in."""
    shutil.copytree(tiny.parent, tmp_path / "set")
    return tmp_path / "set" / "catalog.yaml"


def refused(catalog: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What `fastmoco evaluate segmentation` says when it leaves with exit code 2."""
    arguments = ["--checkpoint", "random:cifar_resnet20", "--data", "tiny", "--protocol", "smoke", "--device", "cpu"]
    out = ["--out", str(catalog.parent / "out")]
    monkeypatch.setattr(
        sys, "argv", ["fastmoco", "--catalog", str(catalog), "evaluate", "segmentation", *arguments, *out]
    )
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("fastmoco: ", "Traceback"))]
    assert len(lines) == 1, lines
    return lines[0].removeprefix("fastmoco: ")


@pytest.mark.parametrize(
    ("mask", "sentence"),
    [
        (np.zeros((64, 48), np.uint8), "is 48x64 pixels, but its image"),
        (np.full((48, 64), 3, np.uint8), "holds label 3, which is beyond the 3 classes of 'tiny'"),
        (np.zeros((48, 64, 3), np.uint8), "has mode RGB, expected one channel of class indices"),
    ],
)
@pytest.mark.parametrize("folder", ["train_masks", "test_masks"])
def test_a_wrong_mask(
    own: Path,
    folder: str,
    mask: np.ndarray,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = own.parent / folder / "03.png"
    Image.fromarray(mask).save(path)
    told = refused(own, monkeypatch, capsys)
    assert str(path) in told
    assert sentence in told
    assert not (own.parent / "out" / "state").exists()


def test_a_missing_mask(own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = own.parent / "test_masks" / "03.png"
    path.unlink()
    image = own.parent / "test" / "03.png"
    assert refused(own, monkeypatch, capsys) == (f"data set 'tiny', split 'test': image {image} has no mask at {path}")


def test_another_batch_and_small_images_are_told_in_a_line(caplog: pytest.LogCaptureFixture) -> None:
    from evaluate.protocols.segmentation import PROTOCOLS
    from evaluate.segmentation.geometry import Geometry
    from evaluate.segmentation.task import _say
    from pretrain.data.readers.masks import MaskStatistics

    protocol = PROTOCOLS["voc12aug_fcn_20k"].override({"global_batch_size": 4})
    seen = MaskStatistics(pixels=(75, 25), ignored=0, median_short_side=128.0)
    with caplog.at_level(logging.INFO, "fastmoco"):
        _say(protocol, Geometry.of(protocol, seen.median_short_side), 10_582, seen, seen)
    assert caplog.messages == [
        "small images (median short side 128 px): lengths of voc12aug_fcn_20k times 0.25: crop 128, scale (512, 128), "
        "slide stride 85",
        "80000 iterations of 4 images: 320000 images seen, 30.2 epochs",
        "batch 4: lr 0.0025 by the rule 'linear' from 0.01 at batch 16",
        "always saying the test split's most frequent class would give mIoU 37.50 %",
    ]


def test_doctor_says_which_operators_are_used() -> None:
    line = next(line for line in doctor.examine().splitlines() if line.startswith("mmseg"))
    assert "mmsegmentation 1.2.2" in line
    assert line.endswith(("(mmcv-lite, operators by fastmoco)", "(compiled operators)"))
