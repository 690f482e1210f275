"""Progress that suits where it is read: a bar on a terminal, a plain line every so often in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger("fastmoco")


class Progress:
    """Counts `total` units of work; call `advance` as they are done, with a few figures to show beside."""

    def __init__(self, what: str, total: int, *, unit: str, every_s: float = 30.0, start: int = 0) -> None:
        self.what, self.total, self.unit, self.every_s = what, total, unit, every_s
        self.done = self.start = start
        self._began = self._told = time.monotonic()
        self._bar = _bar(what, total, start)

    def advance(self, n: int = 1, **figures: float) -> None:
        """`n` more units are done; `figures` (loss=2.31) are shown with four significant digits."""
        self.done += n
        text = " ".join(f"{name} {value:.4g}" for name, value in figures.items())
        if self._bar is not None:
            self._bar[0].update(self._bar[1], completed=self.done, figures=text)
            return
        now = time.monotonic()
        if now - self._told >= self.every_s or self.done >= self.total:
            self._told = now
            rate = (self.done - self.start) / max(now - self._began, 1e-9)
            left_s = (self.total - self.done) / max(rate, 1e-9)
            log.info(
                "%s: %d/%d %s, %.3g %s/s, %s left%s",
                *(self.what, self.done, self.total, self.unit, rate, self.unit, _clock(left_s)),
                f", {text}" if text else "",
            )

    def close(self) -> None:
        """Take the bar off the terminal."""
        if self._bar is not None:
            self._bar[0].stop()
            self._bar = None


@contextmanager
def progress(
    what: str, total: int, *, unit: str = "images", every_s: float = 30.0, start: int = 0
) -> Iterator[Progress]:
    """A `Progress` for the length of the block."""
    bar = Progress(what, total, unit=unit, every_s=every_s, start=start)
    try:
        yield bar
    finally:
        bar.close()


def _bar(what: str, total: int, start: int):
    if not sys.stderr.isatty():
        return None
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    bar = RichProgress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=total, completed=start, figures="")
    bar.start()
    return bar, task


def _clock(seconds: float) -> str:
    seconds = round(seconds)
    return f"{seconds // 3600}:{seconds % 3600 // 60:02d}:{seconds % 60:02d}"
