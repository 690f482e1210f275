"""A folder with an evaluate.py, results.py and pretrain.py of the user's own: every process of ours finds our rooms."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.start import python_command

FASTMOCO = str(Path(sys.executable).with_name("fastmoco"))


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    for name in ("evaluate", "results", "pretrain"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the user\\'s own {name}.py was imported')\n")
    return tmp_path


# An empty entry of PYTHONPATH, as `export PYTHONPATH=$PYTHONPATH:/somewhere` leaves it, is the working directory.
@pytest.mark.parametrize("path", [None, ":/nowhere", "."])
@pytest.mark.parametrize(
    "command",
    [
        [FASTMOCO, "recipes"],
        python_command("benchmarks.cli", "recipes"),
        [sys.executable, "-P", "-m", "benchmarks.cli", "recipes"],
    ],
    ids=["fastmoco", "start", "module"],
)
def test_our_rooms_are_found(hostile: Path, command: list[str], path: str | None) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = path
    done = subprocess.run(command, cwd=hostile, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "shapes_demo" in done.stdout


def test_a_worker_starts_in_such_a_folder(hostile: Path) -> None:
    command = python_command("benchmarks.run.worker", str(hostile / "run"))
    environment = {**os.environ, "PYTHONPATH": ":"}
    done = subprocess.run(command, cwd=hostile, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "it holds no request.json" in done.stderr
    assert "the user's own" not in done.stderr


def test_the_jobs_of_a_campaign_keep_the_folder_off_their_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.campaign.opened import open_campaign
    from benchmarks.campaign.spec import Resources
    from benchmarks.launch.submit import _executor
    from pretrain.data.catalog import Catalog

    (tmp_path / "srun").write_text("#!/bin/sh\n")
    (tmp_path / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    spec = tmp_path / "spec.yaml"
    spec.write_text("name: one\npretrain: {m: {recipe: shapes_demo, data: shapes}}\n")
    campaign = open_campaign(spec, tmp_path / "root", Catalog.load(None), cluster="slurm", site=None)
    executor = _executor(campaign, Resources(timeout_min=5), "name", None)
    assert f"{sys.executable} -P -u -m submitit.core._submit" in executor._submitit_command_str
