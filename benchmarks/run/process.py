"""A run in a process of its own: starting it, stopping it in good order, and telling what became of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.run.rundir import clear_cancelled
from benchmarks.start import python_command
from pretrain.runtime.files import write_json

LOG = "log.txt"
FAILED = "failed.json"
# Exit code of a worker that found another process at work on its run (EX_TEMPFAIL of sysexits.h).
HELD = 75
_TAIL_LINES = 20
_OUT_OF_MEMORY = re.compile(
    r"MemoryError|Cannot allocate memory|can't allocate memory|Unable to allocate|bad_alloc|"
    r"DataLoader worker .* is killed by signal: Killed"
)
# What slurmstepd writes for a cgroup.
_OOM_KILL = re.compile(r"oom[-_ ]kill|Out Of Memory", re.IGNORECASE)


def start_worker(
    run_dir: Path, environment: Mapping[str, str] | None = None, *, log: str = LOG
) -> subprocess.Popen[bytes]:
    """Start `benchmarks.run.worker` on a run's directory; what it prints is added to the run's log.

    The worker gets a session of its own, so that Ctrl-C on the terminal reaches the launcher alone, which then asks its
    workers to save and stop.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / log).open("ab") as stream:
        return subprocess.Popen(
            python_command("benchmarks.run.worker", str(run_dir)),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )


def ask_to_stop(worker: subprocess.Popen[bytes]) -> None:
    """SIGTERM: save the state and leave."""
    if worker.poll() is None:
        worker.send_signal(signal.SIGTERM)


def note_crash(run_dir: Path, returncode: int) -> None:
    """Leave a `failed.json` for a worker that could not write one itself: killed, or crashed in native code."""
    if (run_dir / FAILED).exists() or (run_dir / "result.json").exists():
        return
    if returncode < 0:
        name = signal.Signals(-returncode).name
        hint = " (out of memory, if nobody sent it)" if -returncode == signal.SIGKILL else ""
        write_failure(run_dir, f"the process was killed by {name}{hint}", 128 - returncode)
    else:
        tail = log_tail(run_dir)
        write_failure(run_dir, tail[-1] if tail else f"the process ended with exit code {returncode}", returncode)


def was_interrupted(returncode: int) -> bool:
    """Whether an exit code says that the run was asked to stop: by a signal that it caught, or one that ended it."""
    number = returncode - 128 if returncode > 128 else -returncode
    return number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)


def write_failure(run_dir: Path, error: str, exit_code: int, *, kind: str | None = None) -> None:
    """Write `failed.json`: the error in a line, the exit code, its kind and the end of the log.

    The kind is "out_of_memory" (of the machine, not of its GPU), "error" or what the caller says.
    """
    tail = "\n".join(log_tail(run_dir))
    kind = kind or ("out_of_memory" if exit_code == 137 or _out_of_memory(error, tail) else "error")
    write_json(run_dir / FAILED, {"error": error, "exit_code": exit_code, "kind": kind, "log_tail": tail})


def _out_of_memory(error: str, tail: str) -> bool:
    """Whether words say that the machine's memory was not enough; a GPU's is another matter."""
    if "CUDA out of memory" in error or "CUDA error" in error:
        return False
    return bool(_OUT_OF_MEMORY.search(error) or _OOM_KILL.search(tail))


def read_failure(run_dir: Path) -> dict[str, Any] | None:
    """The content of `failed.json`; None when the run has not failed."""
    try:
        failure: dict[str, Any] = json.loads((run_dir / FAILED).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return failure


def forget_ending(run_dir: Path) -> None:
    """Forget how the run ended before, failed or cancelled, since it begins again; the log keeps what it said."""
    (run_dir / FAILED).unlink(missing_ok=True)
    clear_cancelled(run_dir)


def log_tail(run_dir: Path, lines: int = _TAIL_LINES) -> list[str]:
    """The last lines of the run's log that are not empty."""
    try:
        with (run_dir / LOG).open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(stream.tell() - 16384, 0))
            text = stream.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]
