"""A seed out of range and a setting that is no YAML: one sentence each, and nothing is written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FASTMOCO = Path(sys.executable).with_name("fastmoco")


def fastmoco(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(FASTMOCO), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("seed", ["-1", "99999999999999999999", "1.5"])
def test_a_seed_out_of_range(tmp_path: Path, seed: str) -> None:
    words = ("--checkpoint", "random:resnet18", "--data", "shapes", "--out", "run", "--seed", seed)
    told = fastmoco("evaluate", "knn", *words, cwd=tmp_path)
    assert told.returncode == 2
    assert "Traceback" not in told.stderr
    assert "--seed" in told.stderr
    assert not list(tmp_path.iterdir())
    (tmp_path / "spec.yaml").write_text(
        f"name: x\npretrain: {{a: {{recipe: shapes_demo, data: shapes, seeds: [{seed}]}}}}\n"
    )
    told = fastmoco("campaign", "plan", "spec.yaml", cwd=tmp_path)
    assert told.returncode == 2
    assert "fastmoco: spec.yaml:2: pretrain.a.seeds.0 is" in told.stderr


def test_a_setting_that_is_no_yaml(tmp_path: Path) -> None:
    words = ("--checkpoint", "random:resnet18", "--data", "shapes", "--out", "run", "--set", "k=[1")
    told = fastmoco("evaluate", "knn", *words, cwd=tmp_path)
    assert told.returncode == 2
    assert told.stderr == "fastmoco: k=[1: '[1' is not valid YAML: expected ',' or ']', but got '<stream end>'\n"
