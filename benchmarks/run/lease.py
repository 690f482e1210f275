"""A lease on a directory: at most one process holds it, on any machine that sees the directory, NFS included.

Lock calls are not to be trusted on network file systems, so a lease is made of files alone. Each lease is a numbered
file created with O_EXCL (atomic on NFS 3 and later); the holder of the highest number holds the lease, and renews it by
touching the file. Who finds the highest lease released, or its holder dead, creates the next number: only one can. The
highest file is never deleted, so a late comer that thought number 7 free finds 8 there after creating 7 and retreats.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pretrain.runtime.files import write_json

HEARTBEAT_S = 5.0
# A holder on another machine counts as dead when it has not renewed its lease for this long.
STALE_S = float(os.environ.get("FASTMOCO_LEASE_STALE_S", "90"))


class LeaseHeldError(RuntimeError):
    """Another living process holds the lease; the message says who."""


def holder(directory: Path) -> dict[str, Any] | None:
    """Who holds the lease now: host, pid, slurm_job_id; None when it is free."""
    number = _highest(Path(directory))
    if number == 0:
        return None
    return _alive(_path(Path(directory), number))


@contextmanager
def lease(directory: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lease for the length of the block, renewing it meanwhile.

    A process that finds its lease taken over (it had been stopped for longer than `STALE_S`) ends at once with exit
    code 75, for another may be writing the same files.

    Raises:
        LeaseHeldError: another holds it, and still does after `wait_s` seconds.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + wait_s
    while (number := _acquire(directory)) is None:
        who = holder(directory)
        if time.monotonic() >= deadline:
            raise LeaseHeldError(f"{directory} is in use by {_describe(who)}")
        time.sleep(0.2)
    path = _path(directory, number)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(directory, number, done), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        write_json(path, {"released": True})


def _acquire(directory: Path) -> int | None:
    number = _highest(directory)
    if number and _alive(_path(directory, number)):
        return None
    mine = _path(directory, number + 1)
    # Written aside and linked: the name appears with its content, and only for one of those who try.
    aside = directory / f".{uuid.uuid4().hex}"
    aside.write_text(json.dumps(_me()), encoding="utf-8")
    try:
        os.link(aside, mine)
    except FileExistsError:
        return None
    finally:
        aside.unlink()
    if _highest(directory) > number + 1:
        mine.unlink(missing_ok=True)
        return None
    for old in range(number, 0, -1):
        try:
            _path(directory, old).unlink()
        except FileNotFoundError:
            break
    return number + 1


def _renew(directory: Path, number: int, done: threading.Event) -> None:
    path = _path(directory, number)
    while not done.wait(HEARTBEAT_S):
        try:
            os.utime(path)
            lost = _highest(directory) > number
        except FileNotFoundError:
            lost = True
        except OSError:  # the file server does not answer; the next beat tries again
            continue
        if lost:
            os._exit(75)


def _alive(path: Path) -> dict[str, Any] | None:
    """The content of a lease file whose holder lives, else None."""
    try:
        who: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        beat = path.stat().st_mtime
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if who.get("released"):
        return None
    me = _me()
    if who["host"] == me["host"] and who["boot"] == me["boot"]:
        return who if _started(who["pid"]) == who["pid_started"] else None
    if who["slurm_job_id"] is not None and who["slurm_job_id"] == me["slurm_job_id"]:
        # The same job after a requeue: what it ran before is gone.
        return who if who["slurm_restart"] >= me["slurm_restart"] else None
    return who if _now_there(path.parent) - beat < STALE_S else None


def _now_there(directory: Path) -> float:
    # The file server's clock, not this machine's: heartbeats are its time stamps.
    probe = directory / f".{uuid.uuid4().hex}"
    try:
        probe.touch()
    except OSError:  # somebody who may only read asks for the state
        return time.time()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink()


def _me() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "pid_started": _started(os.getpid()),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "slurm_restart": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
    }


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process of this machine began, so that a pid used again is not taken for its former owner."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        pass
    try:  # without /proc: whether it lives is all that can be told
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "lives"
    return "lives" if not Path("/proc/self").exists() else None


def _highest(directory: Path) -> int:
    if not directory.is_dir():
        return 0
    return max((int(entry.name) for entry in directory.iterdir() if entry.name.isdigit()), default=0)


def _path(directory: Path, number: int) -> Path:
    return directory / f"{number:08d}"


def _describe(who: dict[str, Any] | None) -> str:
    if who is None:
        return "another process"
    job = f", SLURM job {who['slurm_job_id']}" if who["slurm_job_id"] else ""
    return f"process {who['pid']} on {who['host']}{job}"
