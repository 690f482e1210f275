from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.run.lease import LeaseHeldError, holder, lease

# Reads, waits, writes back: loses counts unless one process at a time does it.
COUNT_ALONE = """
import sys, time
from pathlib import Path
from benchmarks.run.lease import lease
counter = Path(sys.argv[1]) / "counter"
for _ in range(5):
    with lease(Path(sys.argv[1]) / "lease", wait_s=60):
        value = int(counter.read_text())
        time.sleep(0.002)
        counter.write_text(str(value + 1))
"""
DIE = """
import os, sys
from pathlib import Path
from benchmarks.run.lease import lease
with lease(Path(sys.argv[1])):
    os._exit(9)
"""


def test_one_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    processes = [subprocess.Popen([sys.executable, "-c", COUNT_ALONE, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    assert (tmp_path / "counter").read_text() == "15"
    assert holder(tmp_path / "lease") is None


def test_a_held_lease_names_its_holder(tmp_path: Path) -> None:
    with lease(tmp_path):
        with pytest.raises(LeaseHeldError, match=f"process {os.getpid()}"), lease(tmp_path):
            pass
        who = holder(tmp_path)
        assert who is not None
        assert who["pid"] == os.getpid()
    with lease(tmp_path):
        pass


def test_a_dead_holder_of_this_machine_is_seen_at_once(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", DIE, str(tmp_path)], check=False).returncode == 9
    assert holder(tmp_path) is None
    with lease(tmp_path):
        pass


def test_a_holder_elsewhere_lives_as_long_as_its_heartbeat(tmp_path: Path) -> None:
    file = tmp_path / "00000001"
    who = {"host": "elsewhere", "boot": "x", "pid": 1, "pid_started": "1", "slurm_job_id": None, "slurm_restart": 0}
    file.write_text(json.dumps(who))
    assert holder(tmp_path) == who
    old = time.time() - 3600
    os.utime(file, (old, old))
    assert holder(tmp_path) is None


def test_what_a_requeued_job_ran_before_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    who = {"host": "elsewhere", "boot": "x", "pid": 1, "pid_started": "1", "slurm_job_id": "7", "slurm_restart": 0}
    (tmp_path / "00000001").write_text(json.dumps(who))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert holder(tmp_path) is not None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert holder(tmp_path) is None
