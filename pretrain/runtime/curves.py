"""Curves of a run: one JSON line a point in `metrics.jsonl`, and the same points as TensorBoard events."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Curves:
    """Writes scalars of a run to `DIR/metrics.jsonl` and `DIR/events.out.tfevents.*`.

    A run that resumes at step S passes `resume_step=S`: lines at or after S, which the killed process may have left
    behind, are dropped, so that each step appears once.
    """

    def __init__(self, directory: Path, *, resume_step: int = 0, tensorboard: bool = True) -> None:
        self.path = Path(directory) / "metrics.jsonl"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _drop_lines_from(self.path, resume_step)
        self._stream = self.path.open("a", encoding="utf-8")
        self._events: Any = None
        if tensorboard:
            # Imported here: tensorboard takes a second to import, and listing commands never need it.
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(directory), purge_step=resume_step or None)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add one point per name at `step`. A value that is not finite is stored as null (JSON has no NaN)."""
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        self._stream.write(json.dumps({"step": step, **finite}) + "\n")
        self._stream.flush()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def image(self, name: str, step: int, image_hwc: Any) -> None:
        """Add a picture (H, W, 3) uint8 to the TensorBoard events."""
        if self._events is not None:
            self._events.add_image(name, image_hwc, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close both files."""
        self._stream.close()
        if self._events is not None:
            self._events.close()

    def __enter__(self) -> Curves:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def read_curves(path: Path) -> list[dict[str, Any]]:
    """The points of a `metrics.jsonl`, oldest first; a last line cut short by a kill is left out."""
    points = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            points.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return points


def _drop_lines_from(path: Path, step: int) -> None:
    from pretrain.runtime.files import write_text

    if not path.exists():
        return
    kept = [point for point in read_curves(path) if point.get("step", -1) < step] if step else []
    write_text(path, "".join(json.dumps(point) + "\n" for point in kept))
