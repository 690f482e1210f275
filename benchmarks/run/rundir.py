"""Where things lie under a campaign's root: ROOT/runs/RUN_ID, ROOT/campaigns/NAME, ROOT/cache."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

_TAG = "root_tag"
# Left by `campaign cancel` in a run's directory: what was stopped on purpose is not queued again by `--watch`.
_CANCELLED = "cancelled"


def run_dir(root: Path, run_id: str) -> Path:
    """The directory of a run."""
    return Path(root) / "runs" / run_id


def campaign_dir(root: Path, name: str) -> Path:
    """Where a campaign keeps its plan, the logs of its SLURM jobs and its tables."""
    return Path(root) / "campaigns" / name


def is_done(root: Path, run_id: str) -> bool:
    """Whether the run has a result."""
    return (run_dir(root, run_id) / "result.json").exists()


def note_cancelled(directory: Path) -> None:
    """Remember that somebody has cancelled the run of this directory."""
    path = Path(directory) / _CANCELLED
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def is_cancelled(directory: Path) -> bool:
    """Whether somebody has cancelled the run of this directory, and nobody has begun it again."""
    return (Path(directory) / _CANCELLED).exists()


def clear_cancelled(directory: Path) -> None:
    """Forget that the run was cancelled."""
    (Path(directory) / _CANCELLED).unlink(missing_ok=True)


def root_tag(root: Path) -> str:
    """Eight characters that are this root's own, wherever it is mounted; made when first asked for.

    Whoever makes them first wins: the file appears whole, and is never replaced.
    """
    path = Path(root) / _TAG
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        mine = uuid.uuid4().hex
        aside = path.with_name(f".{_TAG}.{mine}")
        aside.write_text(mine[:8], encoding="utf-8")
        try:
            os.link(aside, path)
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    return path.read_text(encoding="utf-8").strip()
