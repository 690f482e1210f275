"""A training that another run has done already, or begun: its state is taken instead of training again.

What trains a detector or a segmentor is its checkpoint, its seed, the training images and the settings that act before
the test; the test images and how they are measured are no part of it. So a repaired test image, or another size at test
time, makes another run of the same training. A run leaves the training's identity beside its states; a later one that
has no state of its own looks for it in the directories beside its own. The same run in another directory is somebody's
second try of it, and trains.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pretrain.runtime.files import canonical_hash, write_json

log = logging.getLogger("fastmoco")

_NOTE = "training.json"


def identity(task: str, settings: Mapping[str, Any], measuring: Collection[str], given: Mapping[str, Any]) -> str:
    """Of a training: the settings without those in `measuring`, and what is `given` (seed, images ...)."""
    kept = {key: value for key, value in settings.items() if key not in measuring}
    return canonical_hash({"task": task, "settings": kept, "given": dict(given)})


def take_over(out: Path, training: str) -> None:
    """Put the newest state of the same training into `out/state` where that has none, and note which training it is.

    States that lie there already may be of other training images: the training itself refuses those.
    """
    state = Path(out) / "state"
    if any(state.glob("step_*.pt")):
        return
    write_json(state / _NOTE, {"training": training})
    found = _newest(Path(out).absolute(), training)
    if found is not None:
        _same_file(found, state / found.name)
        log.info("the same training lies in %s: its state %s is taken", found.parent.parent, found.stem)


def _newest(out: Path, training: str) -> Path | None:
    own = _read(out / "run.json", "run_id")
    if own is None:
        return None
    candidates: list[Path] = []
    for note in out.parent.glob(f"*/state/{_NOTE}"):
        run = note.parent.parent
        if _read(note, "training") == training and _read(run / "run.json", "run_id") not in (None, own):
            candidates += note.parent.glob("step_*.pt")
    return max(candidates, key=lambda path: path.name, default=None)


def _read(path: Path, key: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")).get(key)
    except (OSError, ValueError, AttributeError):
        return None


def _same_file(source: Path, target: Path) -> None:
    # A state is never edited, so a second name for it is as good as a copy, and costs no room.
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        os.link(source, aside)
    except OSError:
        shutil.copyfile(source, aside)
    aside.replace(target)
