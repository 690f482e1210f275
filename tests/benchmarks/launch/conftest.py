from __future__ import annotations

import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.campaign.opened import Campaign, open_campaign
from benchmarks.launch import ask
from benchmarks.launch.ledger import Ledger
from benchmarks.run.rundir import run_dir
from pretrain.data.catalog import Catalog, ShapesEntry

CATALOG = Catalog({"tiny": ShapesEntry(format="shapes", size=32, train=64, test=32)})


class FakeSlurm:
    """A cluster in which nothing runs until a test says how it ended."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "slurm"
        self.home.mkdir()
        self.text = ""

    def configure(self, **values: Any) -> None:
        (self.home / "config.json").write_text(json.dumps(values))

    @property
    def jobs(self) -> dict[str, Any]:
        path = self.home / "jobs.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def calls(self, command: str) -> int:
        return json.loads((self.home / "counts.json").read_text()).get(command, 0)

    def live(self) -> list[str]:
        return [
            f"{number}_{index}" if index else number
            for number, job in self.jobs.items()
            for index, state in job["states"].items()
            if state in ("PENDING", "RUNNING")
        ]

    def end(self, element: str, state: str) -> None:
        jobs = self.jobs
        number, _, index = element.partition("_")
        jobs[number]["states"][index] = state
        (self.home / "jobs.json").write_text(json.dumps(jobs))

    def runs_of(self, element: str) -> list[Path]:
        """The run directories that an element of a job does, as its script says."""
        number, _, index = element.partition("_")
        folder = shlex.split(re.findall(r"benchmarks\.launch\.element (.*)", self.jobs[number]["text"])[0])[0]
        batch = json.loads((Path(folder) / "batch.json").read_text())
        return [Path(each) for each in batch["elements"][index or "0"]]

    def finish(self, element: str) -> None:
        """The element's runs are done."""
        for directory in self.runs_of(element):
            result = {
                "run": {
                    "run_id": directory.name,
                    "kind": "evaluate",
                    "task": "knn",
                    "protocol": {"name": "dino"},
                    "data": {"name": "tiny"},
                    "seed": 0,
                    "wall_s": 1.0,
                },
                "metrics": [{"name": "top1", "value": 50.0}],
            }
            (directory / "result.json").write_text(json.dumps(result))
        self.end(element, "COMPLETED")

    def campaign(self, text: str) -> Campaign:
        path = self.folder / "spec.yaml"
        path.write_text(text)
        return open_campaign(path, self.folder / "root", CATALOG, cluster="slurm", site=None)

    def submitted(self, campaign: Campaign) -> list[str]:
        """Ends of the ids of the runs that were ever given to a job, once for each time."""
        found = Ledger.read(campaign.root).submissions.values()
        return [s for each in found if each.job_id for shorts in each.elements.values() for s in shorts]

    def directory(self, campaign: Campaign, part: str) -> Path:
        return run_dir(campaign.root, campaign.plan.run(part).run_id)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """SLURM's commands in PATH, played by fake_slurm.py; waiting takes no time."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    program = bin_folder / "fake"
    text = Path(__file__).with_name("fake_slurm.py").read_text()
    program.write_text(f"#!{sys.executable} -IS\n{text}")
    program.chmod(0o755)
    for command in ("sbatch", "squeue", "sacct", "scontrol", "scancel", "srun"):
        (bin_folder / command).symlink_to(program)
    cluster = FakeSlurm(tmp_path)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(cluster.home))
    monkeypatch.setattr(ask, "_FIRST_DELAY_S", 0.01)
    monkeypatch.setattr(ask, "_LONGEST_DELAY_S", 0.02)
    monkeypatch.setattr(ask, "CACHE_S", 0.0)
    return cluster
