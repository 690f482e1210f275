"""The launchers `local` and `debug`: the campaign's graph on this machine, in worker processes or in this one."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal

from benchmarks.campaign.plan import Plan, PlannedRun
from benchmarks.campaign.prepared import prepare
from benchmarks.run.lease import holder
from benchmarks.run.process import (
    HELD,
    ask_to_stop,
    forget_ending,
    note_crash,
    read_failure,
    start_worker,
    was_interrupted,
)
from benchmarks.run.rundir import is_cancelled, is_done, run_dir
from pretrain.runtime.errors import Interrupted

State = Literal["waiting", "running", "elsewhere", "done", "failed", "skipped", "interrupted"]
OnChange = Callable[[PlannedRun, State], None]

POLL_S = 0.1
# How long workers may take to save after SIGTERM before they are killed.
GRACE_S = 300.0


@dataclass
class _Slot:
    """A place for one worker: its share of the processor, and its GPU."""

    environment: dict[str, str]
    run: PlannedRun | None = None
    process: subprocess.Popen[bytes] | None = None


@dataclass
class LocalLauncher:
    """Runs a plan on this machine, as many runs at a time as there are slots.

    Attributes:
        workers: how many slots; one a GPU, or one, when None.
        on_change: told of every change of a run's state.
        tick: called several times a second, for displays.
    """

    plan: Plan
    root: Path
    workers: int | None = None
    on_change: OnChange = lambda run, state: None
    tick: Callable[[], None] = lambda: None
    states: dict[str, State] = field(default_factory=dict)

    def run(self) -> Counter[str]:
        """Do what is not done yet; returns how many runs ended in which state.

        Raises:
            Interrupted: SIGINT or SIGTERM came; every worker has saved its state and ended.
        """
        prepare(self.root, self.plan)
        slots = _slots(self.workers)
        with _stop_signals() as signals:
            for run in self.plan.runs:
                self._set(run, "done" if is_done(self.root, run.run_id) else "waiting")
                if not is_done(self.root, run.run_id) and holder(run_dir(self.root, run.run_id) / "lease") is None:
                    forget_ending(run_dir(self.root, run.run_id))
            while not signals and self._step(slots):
                self.tick()
                time.sleep(POLL_S)
            if signals:
                self._stop(slots, signals)
        return Counter(self.states.values())

    def _step(self, slots: list[_Slot]) -> bool:
        """Look at every worker and run once; False when nothing is left to wait for."""
        for slot in slots:
            self._reap(slot)
        free = [slot for slot in slots if slot.process is None]
        for run in self.plan.runs:
            state = self.states[run.run_id]
            if state == "elsewhere":
                self._look_elsewhere(run)
            elif state == "waiting":
                needs = {self.states[need] for need in run.needs}
                if needs & {"failed", "skipped", "interrupted"}:
                    self._set(run, "skipped")
                elif is_cancelled(run_dir(self.root, run.run_id)):
                    self._set(run, "interrupted")
                elif needs <= {"done"} and free:
                    self._start(run, free)
        return any(state in ("running", "elsewhere", "waiting") for state in self.states.values())

    def _start(self, run: PlannedRun, free: list[_Slot]) -> None:
        directory = run_dir(self.root, run.run_id)
        if is_done(self.root, run.run_id):
            self._set(run, "done")
        elif holder(directory / "lease") is not None:
            self._set(run, "elsewhere")
        else:
            slot = free.pop()
            slot.run, slot.process = run, start_worker(directory, slot.environment)
            self._set(run, "running")

    def _reap(self, slot: _Slot) -> None:
        if slot.process is None or slot.run is None or (code := slot.process.poll()) is None:
            return
        run, slot.run, slot.process = slot.run, None, None
        if is_done(self.root, run.run_id):
            self._set(run, "done")
        elif code == HELD:
            self._set(run, "elsewhere")
        elif was_interrupted(code):  # somebody else stopped the worker; its state is saved
            self._set(run, "interrupted")
        else:
            note_crash(run_dir(self.root, run.run_id), code)
            self._set(run, "failed")

    def _look_elsewhere(self, run: PlannedRun) -> None:
        directory = run_dir(self.root, run.run_id)
        if is_done(self.root, run.run_id):
            self._set(run, "done")
        elif holder(directory / "lease") is None:
            self._set(run, "failed" if read_failure(directory) else "waiting")

    def _stop(self, slots: list[_Slot], signals: list[int]) -> None:
        """Ask the workers to save, and wait for them; a second signal, or too long a wait, kills them."""
        for slot in slots:
            if slot.process is not None:
                ask_to_stop(slot.process)
        deadline = time.monotonic() + GRACE_S
        while any(slot.process is not None for slot in slots):
            for slot in slots:
                if slot.process is not None and (len(signals) > 1 or time.monotonic() > deadline):
                    slot.process.kill()
                self._reap(slot)
            self.tick()
            time.sleep(POLL_S)
        done = sum(state == "done" for state in self.states.values())
        raise Interrupted(
            signals[0],
            f"{done} of {len(self.plan.runs)} runs are done, the others' states are saved; run it again to go on",
        )

    def _set(self, run: PlannedRun, state: State) -> None:
        if self.states.get(run.run_id) != state:
            self.states[run.run_id] = state
            self.on_change(run, state)


def run_in_process(plan: Plan, root: Path, on_change: OnChange) -> Counter[str]:
    """The launcher `debug`: one run after another in this process, where a debugger can follow."""
    from benchmarks.run.worker import main as work

    prepare(root, plan)
    states: dict[str, State] = {}
    for run in plan.runs:
        states[run.run_id] = "skipped"
        if is_done(root, run.run_id):
            states[run.run_id] = "done"
        elif all(states[need] == "done" for need in run.needs):
            on_change(run, "running")
            code = work(run_dir(root, run.run_id))
            if was_interrupted(code):
                raise Interrupted(code - 128, "the run's state is saved; run the campaign again to go on")
            states[run.run_id] = "done" if code == 0 else "elsewhere" if code == HELD else "failed"
        on_change(run, states[run.run_id])
    return Counter(states.values())


def visible_gpus() -> list[str]:
    """The GPUs this process may use, by index or UUID; asks nvidia-smi, so that no torch is imported."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return answer.split()


def _slots(workers: int | None) -> list[_Slot]:
    gpus = visible_gpus()
    count = workers or len(gpus) or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = str(max(cores // count, 1))
    slots = []
    for index in range(count):
        environment = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": threads}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[index % len(gpus)]
        slots.append(_Slot(environment))
    return slots


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """The SIGINTs and SIGTERMs that came during the block, in order."""
    came: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        came.append(signum)

    before = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
