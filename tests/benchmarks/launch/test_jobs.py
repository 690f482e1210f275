"""Runs as jobs: which share one, how their names tell roots apart, and lanes that hold a limit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.campaign.plan import PlannedRun, make_plan
from benchmarks.campaign.spec import load_spec
from benchmarks.launch.jobs import chained_singly, give_lanes, group, ranges
from benchmarks.run.rundir import root_tag
from pretrain.data.catalog import Catalog

SPEC = """\
name: small
pretrain:
  fast: {recipe: shapes_demo, data: shapes}
checkpoints:
  random: {backbone: cifar_resnet20, init: random}
evaluate:
  - {task: knn, data: shapes, seeds: [0, 1, 2]}
launch: {pack: 2}
"""


def planned(folder: Path, text: str = SPEC) -> tuple[tuple[PlannedRun, ...], object]:
    path = folder / "spec.yaml"
    path.write_text(text)
    file = load_spec(path)
    return make_plan(file, Catalog.load(None)).runs, file.spec.launch


def test_small_evaluations_of_one_checkpoint_share_jobs(tmp_path: Path) -> None:
    runs, launch = planned(tmp_path)
    jobs = group(runs, launch)
    # The pretraining alone; its three kNNs as 2 + 1; those of random, which need nothing, as 2 + 1.
    assert [len(job.runs) for job in jobs] == [1, 2, 1, 2, 1]
    assert [job.needs for job in jobs] == [(), *[(runs[0].run_id,)] * 2, (), ()]
    assert sorted(run.run_id for job in jobs for run in job.runs) == sorted(run.run_id for run in runs)


def test_lanes_hold_the_number_that_runs_at_a_time(tmp_path: Path) -> None:
    runs, launch = planned(tmp_path, SPEC.replace("pack: 2", "pack: 1, max_running: 3"))
    jobs = group(runs, launch)
    assert chained_singly(jobs, launch)
    give_lanes(jobs, launch)
    assert [job.lane for job in jobs] == [0, 1, 2, 0, 1, 2, 0]


def test_evaluations_are_packed_to_a_time(tmp_path: Path) -> None:
    text = SPEC.replace("seeds: [0, 1, 2]", "seeds: [0, 1, 2, 3, 4, 5, 6]").replace("pack: 2", "target_min: 30")
    runs, launch = planned(tmp_path, text)
    jobs = group(runs, launch, seconds=lambda run: 600.0)
    assert [len(job.runs) for job in jobs] == [1, 3, 3, 1, 3, 3, 1]
    # Of what nobody knows the time, `pack` says how many.
    assert {len(job.runs) for job in group(runs, launch)} == {1}


def test_indices_as_sbatch_writes_them() -> None:
    assert ranges([5, 0, 1, 2, 9, 10]) == "0-2,5,9-10"
    assert ranges([7]) == "7"


def test_a_roots_tag_is_made_once_whoever_asks_first(tmp_path: Path) -> None:
    ask = f"from benchmarks.run.rundir import root_tag; print(root_tag({str(tmp_path)!r}))"
    asking = [subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True) for _ in range(6)]
    told = {process.communicate(timeout=60)[0].strip() for process in asking}
    assert told == {root_tag(tmp_path)}
    assert len(root_tag(tmp_path)) == 8
    assert root_tag(tmp_path / "other") != root_tag(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "root_tag"]
