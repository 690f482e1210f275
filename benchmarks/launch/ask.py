"""SLURM's commands, asked with patience: what fails for a moment is tried again, what is refused is told at once."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Literal

from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_json

Verdict = Literal["transient", "limit", "refused", "unknown"]

# How long a submission goes on asking a controller that does not answer, all tries together; a status asks for less.
PATIENCE_S = float(os.environ.get("FASTMOCO_SLURM_PATIENCE_S", "300"))
STATUS_PATIENCE_S = min(PATIENCE_S, 30.0)
# How long an answer of squeue or sacct serves the next command of the same user.
CACHE_S = float(os.environ.get("FASTMOCO_SLURM_CACHE_S", "10"))
_ONE_CALL_S = 150.0
_FIRST_DELAY_S = 1.0
_LONGEST_DELAY_S = 30.0
# An error that is in no list is believed when it has been told this often.
_TRIES_OF_UNKNOWN = 4

# Submit limits of associations, QOS and partitions, and a controller that holds MaxJobCount jobs.
_LIMIT = re.compile(
    r"\w*(MaxSubmitJob|GrpSubmitJob|GrpJobs|MaxJobs)\w*Limit|job queue full|temporarily unable to accept job|"
    r"Resource temporarily unavailable|submit limit"
)
# Limits on one job's size or time, where the site denies what is over them: no waiting helps.
_SIZE = re.compile(
    r"(Assoc|QOS)(Max|Grp)\w*(Cpu|CPU|Node|Mem|TRES|GRES|BB|Wall|Time|Energy|Billing)\w*Limit|"
    r"QOSMin\w+|Max(Cpu|CPU|Node|Mem|TRES|GRES|BB|Energy|Billing)\w*PerAccount|QOSTimeLimit|QOSNotAllowed"
)
_TRANSIENT = re.compile(
    r"[Ss]ocket timed out|Unable to (contact|establish)|connect(ion)? (failure|refused|reset|timed out)|"
    r"[Cc]ommunication connection|Zero Bytes|Transport endpoint|standby mode|Unspecified error|slurm_persist_conn|"
    r"[Mm]unge|Slurmdbd|database|has not answered|Error connecting|Unexpected message|Address already in use|"
    r"Message receive failure|Timed out|Interrupted system call|Connection refused|Broken pipe",
)
_REFUSED = re.compile(
    r"[Ii]nvalid|not available|not permitted|[Uu]nrecognized|[Uu]nknown|Unable to open file|must be|cannot be|"
    r"[Aa]ccess.denied|Permission denied|[Uu]ser's group|[Ee]xceed|Requested|required|[Nn]o partition|disabled"
)
# With this sbatch waits by itself, for minutes; the queue is asked again by us.
_FULL = re.compile(r"(job queue full|temporarily unable to accept job), sleeping")


class UnreachableError(InputError):
    """SLURM has not answered for as long as one was willing to ask."""


class LimitError(InputError):
    """SLURM takes no more jobs for now; the sentence says which limit."""


class RefusedError(InputError):
    """SLURM will not do this however often it is asked; the sentence says why."""


def verdict(stderr: str) -> Verdict:
    """What SLURM's words mean for who asked."""
    if _SIZE.search(stderr):
        return "refused"
    if _LIMIT.search(stderr):
        return "limit"
    if _TRANSIENT.search(stderr):
        return "transient"
    return "refused" if _REFUSED.search(stderr) else "unknown"


def is_of_one_user(limit: str) -> bool:
    """Whether only the user's own jobs can fill a limit; those of others may be hidden from who asks."""
    return "PerUser" in limit


def ask(command: list[str], *, patience_s: float | None = None) -> str:
    """What a command of SLURM prints.

    Raises:
        UnreachableError, LimitError, RefusedError: in SLURM's words.
    """
    patience_s = PATIENCE_S if patience_s is None else patience_s
    deadline, delay_s, unknown = time.monotonic() + patience_s, _FIRST_DELAY_S, 0
    while True:
        code, out, err = _call(command, max(min(_ONE_CALL_S, deadline - time.monotonic()), 20.0))
        if code == 0:
            return out
        words = words_of(err) or f"exit code {code} without a word"
        found = verdict(err)
        unknown += found == "unknown"
        if found == "limit":
            raise LimitError(words)
        if found == "refused" or unknown >= _TRIES_OF_UNKNOWN:
            raise RefusedError(f"{command[0]}: {words}")
        if time.monotonic() + delay_s > deadline:
            raise UnreachableError(f"{command[0]} does not answer: {words}")
        time.sleep(delay_s)
        delay_s = min(2 * delay_s, _LONGEST_DELAY_S)


def try_once(command: list[str]) -> tuple[Verdict | None, str, str]:
    """One call: (None where it worked, else what its words mean; its output; its words)."""
    code, out, err = _call(command, _ONE_CALL_S)
    return (None if code == 0 else verdict(err)), out, words_of(err) or f"exit code {code} without a word"


def ask_cached(command: list[str], *, patience_s: float, newer_than: float = 0.0) -> str:
    """As `ask`, or an answer of less than `CACHE_S` seconds ago to a command of this user, after `newer_than`."""
    key = json.dumps([command, os.environ.get("SLURM_CONF"), os.environ.get("SLURM_CLUSTERS")])
    path = _cache() / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if 0 <= time.time() - kept["at"] < CACHE_S and kept["at"] > newer_than:
            return str(kept["answer"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    at = time.time()
    answer = ask(command, patience_s=patience_s)
    if CACHE_S > 0:
        with contextlib.suppress(OSError):  # a cache that cannot be written costs a question, no more
            write_json(path, {"at": at, "answer": answer})
    return answer


def forget_answers() -> None:
    """Throw kept answers away: the queue has been changed."""
    with contextlib.suppress(OSError):
        for path in _cache().glob("*.json"):
            path.unlink(missing_ok=True)


def words_of(stderr: str) -> str:
    """SLURM's error lines as one sentence, without the command's name in front."""
    fatal = [line.partition("fatal:")[2].strip() for line in stderr.splitlines() if "fatal:" in line]
    if fatal:  # what stands above is the way there
        return fatal[-1]
    lines = [line.partition("error:")[2].strip() or line.strip() for line in stderr.splitlines() if line.strip()]
    return "; ".join(dict.fromkeys(lines))


def _cache() -> Path:
    return cache_root() / "slurm"


def _call(command: list[str], timeout_s: float) -> tuple[int, str, str]:
    with tempfile.TemporaryFile("w+", errors="replace") as out, tempfile.TemporaryFile("w+", errors="replace") as err:
        try:
            process = subprocess.Popen(
                command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=_environment(command[0])
            )
        except FileNotFoundError:
            raise InputError(f"SLURM is not here: the command '{command[0]}' is not installed") from None
        except PermissionError as error:
            raise InputError(f"SLURM's command '{command[0]}' cannot be run: {error}") from None
        deadline, pause_s, note = time.monotonic() + timeout_s, 0.005, ""
        while process.poll() is None:
            if time.monotonic() > deadline:
                note = f"{command[0]} has not answered within {timeout_s:.0f} s"
            elif command[0] == "sbatch" and pause_s >= 0.05 and _FULL.search(_so_far(err)):
                note = "job queue full"
            if note:
                process.kill()
                process.wait()
                break
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, 0.2)
        return (process.returncode or (1 if note else 0)), _so_far(out), note or _so_far(err)


def _environment(command: str) -> dict[str, str] | None:
    """A job submitted from within a job must not take that one's shape over."""
    if command != "sbatch" or "SLURM_JOB_ID" not in os.environ:
        return None
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {key: value for key, value in os.environ.items() if not key.startswith("SLURM_") or key in kept}


def _so_far(stream: object) -> str:
    # By the descriptor: the child shares our position in the file.
    descriptor = stream.fileno()  # type: ignore[attr-defined]
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode("utf-8", errors="replace")
