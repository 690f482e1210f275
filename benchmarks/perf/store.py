"""How long the store takes for 100 000 rows: from a snapshot, from runs of four metrics, from runs of one metric.

python -m benchmarks.perf.store [ROWS]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from results.row import Checkpoint, Data, Metric, Protocol, Result, Run
from results.store import store

REPEATS = 3
METRICS = ("top1", "top5", "loss", "wall")


def write_runs(root: Path, rows: int, metrics: int) -> None:
    """Fill `root` with runs of a realistic size (1.5 kB a result) that give `rows` rows in all."""
    for index in range(rows // metrics):
        run = Run(
            run_id=f"linear-cifar10-{index:06d}",
            kind="evaluate",
            task="linear",
            protocol=Protocol(name="sweep", values={f"setting_{key}": [key, key * 0.5] for key in range(12)}),
            checkpoint=Checkpoint(
                label=f"checkpoint_{index % 400}",
                ref=f"runs/{index % 400}/backbone.safetensors",
                sha256=f"{index % 400:064d}",
                method="fast_moco",
                backbone="resnet50",
                epoch=100,
                pretrain_seed=index % 5,
            ),
            data=Data(name="cifar10", identity="c" * 64),
            seed=index % 3,
            packages={"torch": "2.14.1", "torchvision": "0.29.1", "numpy": "2.4.6"},
            command=["fastmoco", "evaluate", "linear", "--checkpoint", f"{index}.safetensors", "--seed", "0"],
            ended=f"2026-01-01T00:00:{index % 60:02d}Z",
            wall_s=12.5,
        )
        values = [Metric(name=name, value=50 + index % 40, n=10000, ci95=(49.0, 51.0)) for name in METRICS[:metrics]]
        directory = root / f"{index // 1000:03d}" / run.run_id
        directory.mkdir(parents=True)
        text = Result(run=run, metrics=values).model_dump_json(indent=1)
        (directory / "result.json").write_text(text)


def timed(work: Callable[[], Any], rows: int) -> float:
    """Median wall seconds of `REPEATS` calls, each of which must give `rows` rows."""
    walls = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        found = work()
        walls.append(time.perf_counter() - begin)
        assert len(found.rows) == rows
        assert not found.problems
    return statistics.median(walls)


def main(rows: int = 100_000) -> dict[str, float]:
    """Print and return the seconds of each way in."""
    seconds: dict[str, float] = {}
    for metrics in (4, 1):
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary) / "runs"
            write_runs(root, rows, metrics)
            name = f"{rows // metrics} result.json of {metrics} metric{'s' if metrics > 1 else ''}"
            seconds[name] = timed(partial(store.load, [root]), rows)
            if metrics == 1:
                snapshot = Path(temporary) / "rows.parquet"
                store.load([root]).export(snapshot)
                seconds["snapshot"] = timed(partial(store.load, [snapshot]), rows)
                size = snapshot.stat().st_size
    for name, value in seconds.items():
        print(f"{rows} rows from {name}: {value:.2f} s (median of {REPEATS}, page cache warm)")
    print(f"the snapshot is {size / 1e6:.1f} MB")
    return seconds


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
