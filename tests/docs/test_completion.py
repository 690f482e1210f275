"""Shells can complete `fastmoco`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FASTMOCO = str(Path(sys.executable).with_name("fastmoco"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_is_printed(shell: str) -> None:
    environment = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [FASTMOCO, "--show-completion", shell]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert f"complete_{shell}" in done.stdout
    assert "fastmoco" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("fastmoco ev", "evaluate"),
        ("fastmoco campaign ex", "explain"),
        ("fastmoco data ", "check"),
        ("fastmoco evaluate kn", "knn"),
        ("fastmoco evaluate linear --protocol moco", "moco_v3"),
        ("fastmoco evaluate knn --data sh", "shapes"),
        ("fastmoco pretrain --recipe r50", "r50_e100"),
        ("fastmoco protocols semi sw", "swav"),
        ("fastmoco recipes sha", "shapes_demo"),
        ("fastmoco table paper/l", "paper/linear"),
    ],
)
def test_bash_completes_commands_and_names(typed: str, offered: str) -> None:
    environment = {
        **os.environ,
        "_FASTMOCO_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - (not typed.endswith(" "))),
    }
    done = subprocess.run([FASTMOCO], env=environment, capture_output=True, text=True, check=True)
    assert offered in done.stdout.split()
