"""What a SLURM job, or one element of an array, does: its runs one after the other, each in a worker process.

`benchmarks.launch.element FOLDER`, on every rank; FOLDER/batch.json was written before the job was submitted. On
SIGUSR2 (time limit near, or a site's preemption) the worker saves, then the job is queued again; runs that are done
stay done. On SIGTERM (`scancel`, preemption) it saves; whether the job comes back is then SLURM's to say.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.launch.ask import ask
from benchmarks.launch.endings import Ending, note, timeouts_in_vain
from benchmarks.launch.slurm import is_running
from benchmarks.run.process import HELD, LOG, note_crash, start_worker, was_interrupted, write_failure
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_json
from pretrain.runtime.interrupt import StopRequest, stop_request

BATCH = "batch.json"
# Sites give minutes between the SIGTERM of a preemption and the SIGKILL.
_LONGEST_GRACE_S = 1800


def write_batch(folder: Path, elements: dict[int, list[str]], *, timeout_min: int | None, max_in_vain: int) -> None:
    """What the elements are to do: index -> run directories, and how many time limits in vain one may reach."""
    values: dict[str, Any] = {"elements": {str(index): runs for index, runs in elements.items()}}
    write_json(folder / BATCH, {**values, "timeout_min": timeout_min, "max_in_vain": max_in_vain})


def main(folder: Path) -> int:
    """Do the runs of this element; the exit code is 1, after all were tried, if one of them failed."""
    began = time.monotonic()
    batch = json.loads((folder / BATCH).read_text(encoding="utf-8"))
    directories = [Path(each) for each in batch["elements"][os.environ.get("SLURM_ARRAY_TASK_ID", "0")]]
    rank = int(os.environ.get("SLURM_PROCID", "0"))
    failed: list[str] = []
    current, before = directories[0], frozenset[str]()
    with stop_request() as stop:
        for directory in directories:
            if stop.requested:
                break
            if (directory / "result.json").exists():
                continue
            current, before = directory, _saved(directory)
            if not _run(directory, rank, stop):
                failed.append(directory.name)
    if not stop.requested:
        if failed:
            print(f"failed: {', '.join(failed)}", file=sys.stderr)
        return 1 if failed else 0
    if rank == 0 and stop.signum == signal.SIGUSR2:
        saved = _saved(current) != before or (current / "result.json").exists()
        if not _in_vain(current, batch, saved, time.monotonic() - began):
            _queue_again()
    elif rank == 0:
        _wait_while_preempted()
    return 0 if rank else 128 + (stop.signum or signal.SIGTERM)


def _run(directory: Path, rank: int, stop: StopRequest) -> bool:
    worker = start_worker(directory, log=LOG if rank == 0 else f"log.rank{rank}.txt")
    asked = False
    while (code := worker.poll()) is None:
        if stop.requested and not asked:
            worker.send_signal(signal.SIGTERM)
            asked = True
        time.sleep(0.1)
    if rank == 0 and code not in (0, HELD) and not was_interrupted(code):
        note_crash(directory, code)
    return code == 0 or stop.requested or was_interrupted(code)


def _saved(directory: Path) -> frozenset[str]:
    """The states a run has saved."""
    try:
        return frozenset(entry.name for entry in (directory / "state").iterdir())
    except OSError:
        return frozenset()


def _in_vain(directory: Path, batch: dict[str, Any], saved: bool, elapsed_s: float) -> bool:
    """Whether the run has reached its time limit once too often without having saved anything; then it has failed."""
    timeout_min = batch["timeout_min"]
    if timeout_min is None or elapsed_s < 0.5 * 60 * timeout_min - 60:  # a site's preemption rather than the limit
        return False
    words = "saved and queued again" if saved else "nothing new was saved"
    ending = Ending(_job_id(), "timeout", os.environ.get("SLURMD_NODENAME", ""), round(elapsed_s), None, words, saved)
    note(directory, ending)
    in_vain = timeouts_in_vain(directory)
    if in_vain <= batch["max_in_vain"]:
        return False
    error = f"it has reached its time limit of {timeout_min} min {in_vain} times without saving anything new; raise"
    write_failure(directory, f"{error} timeout_min", 1, kind="timeout")
    return True


def _queue_again() -> None:
    try:
        ask(["scontrol", "requeue", _job_id()])
    except InputError as error:  # a site without requeue: `--watch` and the next `run` submit it again
        print(f"not queued again: {error}", file=sys.stderr)


def _wait_while_preempted() -> None:
    """Stay until SLURM takes the job away, if that is what the SIGTERM announced.

    A job that leaves by itself within its grace time counts as failed and is not queued again. One that was cancelled
    is no longer RUNNING, and leaves at once.
    """
    deadline = time.monotonic() + _LONGEST_GRACE_S
    while is_running(_job_id()) and time.monotonic() < deadline:
        time.sleep(1)


def _job_id() -> str:
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
