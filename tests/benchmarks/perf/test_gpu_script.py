"""The script for the first minutes on a GPU: its plan fits, every part runs, and a cut leaves what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.perf import gpu
from benchmarks.perf.gpu_parts import PARTS, Machine, Part

SMALL = Machine(torch.device("cpu"), small=True)
# They start processes of their own or compile for a minute; `resume` and `learning` are tested by what they call.
QUICK = ["equal", "step", "loader", "extraction", "knn", "sweep", "ranks", "memory"]


def test_the_plan_names_every_part_and_fits_into_ten_minutes_and_a_bit() -> None:
    told = gpu.plan(list(PARTS))
    assert all(name in told for name in PARTS)
    assert sum(part.seconds for part in PARTS.values()) <= 660


@pytest.mark.long
@pytest.mark.parametrize("name", QUICK)
def test_a_part_gives_figures_that_json_holds(name: str) -> None:
    found = PARTS[name].run(SMALL)
    assert found
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    if name == "equal":
        assert found["loss_float32"] == found["gradients_float32"] == 0  # the CPU against itself
        assert 0 < found["loss_bf16"] < 0.05
    if name == "step":
        assert found["ours"]["gflop"] >= found["backbone alone"]["gflop"] > 0


def test_what_fails_or_does_not_fit_is_told_and_the_rest_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(_machine: Machine) -> dict[str, object]:
        raise RuntimeError("no kernel image")

    parts = {
        "good": Part("", 1, lambda _: {"value": 1}),
        "bad": Part("", 1, fails),
        "long": Part("", 10_000, lambda _: {}),
    }
    monkeypatch.setattr(gpu, "PARTS", parts)
    found = gpu.run(SMALL, list(parts), tmp_path / "gpu.json", 60)
    written = json.loads((tmp_path / "gpu.json").read_text())
    assert written == found
    assert written["parts"]["good"]["value"] == 1
    assert "RuntimeError at" in written["parts"]["bad"]["failed"]
    assert "no kernel image" in written["parts"]["bad"]["failed"]
    assert "it may take 10000" in written["parts"]["long"]["left_out"]
    assert written["machine"]["torch"] == torch.__version__


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    told = subprocess.run([sys.executable, "-m", "benchmarks.perf.gpu"], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert "this machine offers no CUDA device" in told.stderr
