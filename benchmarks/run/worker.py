"""`python -m benchmarks.run.worker RUN_DIR`: one run of a campaign, in a process of its own.

Exit codes: 0 done, 1 failed, 2 wrong input, 75 another process is at work on this run, 128 + signal when it was stopped
and its state is saved. A run that fails leaves `failed.json`.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from pathlib import Path

from benchmarks.run.lease import LeaseHeldError, lease
from benchmarks.run.process import HELD, forget_ending, write_failure
from benchmarks.run.request import read_request
from pretrain.runtime.errors import InputError, Interrupted, RunFailedError


def main(run_dir: Path) -> int:
    """Execute the run of `run_dir`; the exit code."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname).1s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"
    )
    from pretrain.runtime.distributed import ranks_from_environment

    if not ranks_from_environment().is_main:
        return _execute(run_dir)
    try:
        # A requeued job may come up while the last heartbeat of its predecessor is young.
        wait_s = 120.0 if "SLURM_JOB_ID" in os.environ else 0.0
        with lease(run_dir / "lease", wait_s=wait_s):
            forget_ending(run_dir)
            return _execute(run_dir)
    except LeaseHeldError as error:
        print(error, file=sys.stderr)
        return HELD


def _execute(run_dir: Path) -> int:
    from benchmarks.run.execute import execute

    try:
        execute(read_request(run_dir), run_dir)
    except Interrupted as stop:
        logging.getLogger("fastmoco").info("%s", stop)
        return 128 + stop.signum
    except (InputError, RunFailedError) as error:
        print(error, file=sys.stderr, flush=True)
        code = 2 if isinstance(error, InputError) else 1
        write_failure(run_dir, str(error), code)
        return code
    except Exception as error:
        traceback.print_exc()
        sys.stderr.flush()
        write_failure(run_dir, f"{type(error).__name__}: {error}", 1)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
