"""A folder with an evaluate.py, results.py and pretrain.py of the user's own: every process of ours finds our rooms."""

from __future__ import annotations

import os
import shlex
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


def test_a_job_of_a_campaign_starts_in_such_a_folder(hostile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.campaign.spec import Resources
    from benchmarks.launch.script import script_text

    (hostile / "srun").write_text("#!/bin/sh\n")  # submitit looks for it
    (hostile / "srun").chmod(0o755)
    monkeypatch.setenv("PATH", f"{hostile}:{os.environ['PATH']}")
    element = "benchmarks.launch.element"
    text = script_text(Resources(), mark="mark", folder=hostile / "job", module=element, arguments=("job",))
    words = shlex.split(text.splitlines()[-1])
    command = words[words.index(sys.executable) :]
    assert command == python_command(element, "job")
    environment = {**os.environ, "PYTHONPATH": ":"}
    done = subprocess.run(command, cwd=hostile, env=environment, capture_output=True, text=True, check=False)
    assert "job/batch.json" in done.stderr  # so far it came
    assert "the user's own" not in done.stderr
