"""What a campaign of 200 tiny runs costs besides its work: planning, the status, and submission where SLURM is.

python -m benchmarks.perf.campaigns [RUNS]

Each is the wall time of the command as a user types it, process start and imports included. Where SLURM's commands
are, the runs are also submitted (held by a limit of one at a time) and cancelled again: `make slurm-sandbox` gives a
cluster to try that on.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.launch import slurm

REPEATS = 3
TARGETS = {"plan": "< 2 s", "status": "< 1 s", "submit": "< 0.15 s a run"}


def write_spec(folder: Path, runs: int) -> Path:
    """A spec of `runs` evaluations of one random backbone."""
    path = folder / "spec.yaml"
    path.write_text(
        "name: many\ncheckpoints: {random: {backbone: cifar_resnet20, init: random}}\n"
        f"evaluate: [{{task: knn, data: tiny, seeds: {list(range(runs))}}}]\n"
        "launch: {pack: 1, max_running: 1, slurm: {timeout_min: 10}}\n"
    )
    (folder / "catalog.yaml").write_text("tiny: {format: shapes, size: 32, train: 128, test: 64, seed: 0}\n")
    return path


def wall_s(folder: Path, *words: str) -> float:
    """Seconds that `fastmoco campaign WORDS` takes; it must succeed."""
    command = [sys.executable, "-m", "benchmarks.cli", "--catalog", str(folder / "catalog.yaml"), "campaign", *words]
    begin = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return time.perf_counter() - begin


def main() -> int:
    """Print one line a command."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec, root = str(write_spec(folder, runs)), str(folder / "root")
        on_root = (spec, "--root", root)
        measured = {"plan": statistics.median(wall_s(folder, "plan", *on_root) for _ in range(REPEATS))}
        if slurm.is_here():
            measured["submit"] = wall_s(folder, "run", *on_root, "--cluster", "slurm") / runs
        measured["status"] = statistics.median(wall_s(folder, "status", *on_root) for _ in range(REPEATS))
        if "submit" in measured:
            wall_s(folder, "cancel", *on_root)
    print(f"{runs} runs in one campaign")
    for what, seconds in measured.items():
        print(f"{what:8} {seconds:7.3f} s   target {TARGETS[what]}")
    if "submit" not in measured:
        print("submission is not measured: SLURM's commands are not here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
