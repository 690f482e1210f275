"""Stopping in good order: SIGTERM and SIGUSR2 ask, the loop saves and leaves.

SLURM sends SIGTERM on preemption and `scancel`, submitit SIGUSR2 shortly before the time limit.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from pretrain.runtime.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGUSR2)


class StopRequest:
    """Whether a signal has asked this process to stop, and which."""

    def __init__(self) -> None:
        self.signum: int | None = None

    @property
    def requested(self) -> bool:
        """True from the first signal on."""
        return self.signum is not None

    def leave(self, where: str) -> Interrupted:
        """The exception to raise once the state is saved; `where` says what was saved and how to go on."""
        assert self.signum is not None
        return Interrupted(self.signum, where)


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Catch SIGTERM and SIGUSR2 for the length of the block; the handlers that were there come back afterwards.

    A handler that somebody else had installed (submitit's, which requeues the job) is called as well, once the
    block is left: the run saves first, then the scheduler hears of it. Outside the main thread, where Python allows no
    handlers, nothing is caught and `requested` stays False.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def ask(signum: int, frame: FrameType | None) -> None:
        request.signum = signum

    before = {signum: signal.signal(signum, ask) for signum in SIGNALS}
    try:
        yield request
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        if request.signum is not None:
            handler = before[signal.Signals(request.signum)]
            if callable(handler):
                handler(request.signum, None)
