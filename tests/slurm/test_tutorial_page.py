"""The tutorial on SLURM does on a real cluster what it says: its run is preempted and goes on."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = [pytest.mark.slurm, pytest.mark.long, pytest.mark.xdist_group("slurm")]


def test_the_blocks_of_the_tutorial_run(cluster: Any, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("docs_run_blocks", DOCS / "run_blocks.py")
    assert spec is not None
    assert spec.loader is not None
    run_blocks = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = run_blocks
    spec.loader.exec_module(run_blocks)
    page = (DOCS / "tutorials" / "slurm.md").read_text(encoding="utf-8")
    _, wrong = run_blocks.run_page(page, tmp_path, run_blocks.for_blocks(cluster.environment))
    assert not wrong, "\n".join(wrong)
    root = tmp_path / "runs" / "cluster" / "runs"
    (pretraining,) = root.glob("pretrain-*")
    events = (pretraining / "attempts.jsonl").read_text()
    assert [events.count(f'"{event}"') for event in ("start", "interrupted", "done")] == [2, 1, 1]
    assert len(list(root.glob("*/result.json"))) == 3
