"""What a run that wrong input ended leaves behind: nothing of its own, and everything of everybody else's.

Only files that a run writes are removed, by name, and only folders that are empty are. Between the start of a command
and its end other commands may have put results into the folders that it made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pretrain.runtime.errors import InputError

# All that a run may have written before its training began or its metrics were computed.
_OWN_FILES = (
    *("run.json", "attempts.jsonl", "log.txt", "metrics.jsonl", "events.out.tfevents.*", ".meeting-*"),
    *("detectron2.yaml", "classifiers.json", "state/training.json"),
)
# What only a training writes, with hours in it: a run with one of these goes on from there.
_WORK = ("state/step_*.pt", "*/state/step_*.pt", "checkpoints/epoch_*.safetensors", "backbone.safetensors")
# What a run would replace without asking.
_WRITTEN = ("backbone.safetensors", "head.safetensors", "result.json", "state", "checkpoints")


@contextmanager
def nothing_left_behind(out: Path) -> Iterator[None]:
    """Take away what this call has written to `out` when its input turns out wrong, unless training has begun.

    Raises:
        InputError: `out` is a file, or holds files of no run that this one would replace.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; a run needs a directory of its own")
    _refuse_foreign_files(out)
    made = [folder for folder in (out / "state", out, *out.parents) if not folder.exists()]
    # A campaign has prepared the directory of its run, and its status tells what happened there.
    prepared = (out / "request.json").exists()
    there = set(_own(out))
    try:
        yield
    except InputError:
        if not prepared and not has_work(out):
            for path in set(_own(out)) - there:
                path.unlink(missing_ok=True)
            for folder in made:
                with suppress(OSError):  # another command works in it
                    folder.rmdir()
        raise


def has_work(out: Path) -> bool:
    """Whether a training has left a state or weights in `out`."""
    return any(True for pattern in _WORK for _ in out.glob(pattern))


def _own(out: Path) -> Iterator[Path]:
    for pattern in _OWN_FILES:
        yield from out.glob(pattern)


def _refuse_foreign_files(out: Path) -> None:
    if (out / "run.json").exists() or (out / "request.json").exists():
        return
    found = [name for name in _WRITTEN if (out / name).exists()]
    if found:
        raise InputError(
            f"{out} holds {found[0]}, but no run.json: it is not the directory of a run, and a run here would replace "
            "it; give another directory"
        )
