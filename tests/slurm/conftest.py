from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.launch.ledger import Ledger

PROJECT = Path(__file__).parents[2]


def _load_sandbox() -> ModuleType:
    # By its path: mmsegmentation's wheel installs a package that is called `tests` as well.
    spec = importlib.util.spec_from_file_location("fastmoco_slurm_sandbox", Path(__file__).with_name("sandbox.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


SANDBOX = _load_sandbox()


class Commands:
    """`fastmoco campaign ...` against a cluster, in a folder with a catalog of one tiny generated set."""

    def __init__(self, cluster: Any, folder: Path) -> None:
        self.cluster, self.folder, self.root = cluster, folder, folder / "root"
        self.environment: dict[str, str] = {}
        self.max_array_size, self.submit_limit = SANDBOX.MAX_ARRAY_SIZE, SANDBOX.SUBMIT_LIMIT
        (folder / "catalog.yaml").write_text("tiny: {format: shapes, size: 32, train: 128, test: 64, seed: 0}\n")

    def spec(self, text: str, name: str = "spec.yaml") -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def run(self, *words: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        answer = self.start(*words)
        out, err = answer.communicate(timeout=120)
        assert answer.returncode == expect, out + err
        return subprocess.CompletedProcess(words, answer.returncode, out, err)

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).with_name("fastmoco")), "--catalog", str(self.folder / "catalog.yaml")]
        environment = {**self.cluster.environment, "OMP_NUM_THREADS": "1", "FASTMOCO_LEASE_STALE_S": "20"}
        environment |= {"FASTMOCO_WATCH_S": "2", "FASTMOCO_SLURM_CACHE_S": "0", **self.environment}
        return subprocess.Popen(
            [*command, *words],
            cwd=PROJECT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def submit(self, spec: Path) -> str:
        return self.run("campaign", "run", str(spec), "--root", str(self.root), "--cluster", "slurm").stderr

    def runs(self, part: str = "") -> list[Path]:
        return sorted(path for path in (self.root / "runs").glob("*") if part in path.name)

    def starts(self, part: str = "") -> list[int]:
        """How many processes began each run whose id holds `part`."""
        return [(path / "attempts.jsonl").read_text().count('"start"') for path in self.runs(part)]

    def finish(self, timeout_s: float = 150.0, *, tables: bool = False) -> None:
        """Wait until every run's job has left the queue, and with `tables` the job that writes them."""

        def over() -> bool:
            return not [line for line in self.queued() if tables or "fastmoco-tables" not in line]

        self.cluster.wait(over, "the queue to empty", timeout_s)

    def queued(self) -> list[str]:
        return self.cluster.ask("squeue", "-h", "--array", "-o", "%i|%T|%r|%j").splitlines()

    def job(self, part: str) -> str:
        """SLURM's id of the job to which the run whose id holds `part` was last given."""
        (run,) = self.runs(part)
        place = Ledger.read(self.root).places()[run.name[-12:]]
        assert place.job_id is not None
        return place.job_id

    def wait_for_steps(self, part: str, steps: int, timeout_s: float = 60.0) -> None:
        """Wait until the run whose id holds `part` has done some steps."""

        def enough() -> bool:
            paths = [path / "metrics.jsonl" for path in self.runs(part)]
            return any(path.exists() and path.read_text().count("\n") >= steps for path in paths)

        self.cluster.wait(enough, f"{steps} steps of {part}", timeout_s)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    reason = SANDBOX.why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("slurm")
    sandbox = SANDBOX.Sandbox(folder)
    try:
        yield sandbox.start()
    finally:
        sandbox.stop()


@pytest.fixture
def commands(cluster: Any, tmp_path: Path) -> Iterator[Commands]:
    yield Commands(cluster, tmp_path)
    if "slurmctld" not in cluster.processes:  # a test that failed half-way must not take the others along
        cluster.start_controller()
    ids = sorted({*cluster.ask("squeue", "-h", "-o", "%F").split()})  # of arrays, the ids without elements
    if ids:
        cluster.ask("scancel", *ids)
        cluster.wait(lambda: not cluster.ask("squeue", "-h"), "the queue to empty")


@pytest.fixture
def commands_without_accounts(tmp_path: Path) -> Iterator[Commands]:
    """The same on a cluster of its own, where sacct has nothing to ask."""
    reason = SANDBOX.why_not()
    if reason:
        pytest.skip(reason)
    bare = SANDBOX.Sandbox(tmp_path / "cluster", accounting=False)
    try:
        yield Commands(bare.start(), tmp_path)
    finally:
        bare.stop()
