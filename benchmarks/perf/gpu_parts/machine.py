"""Where the parts run, at which size, and how they are timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.perf.step import GPU_PEAK


@dataclass(frozen=True)
class Machine:
    """A device; `small` asks for the size of a test."""

    device: torch.device
    small: bool = False

    def pick(self, full: int, small: int) -> int:
        """The size to use."""
        return small if self.small else full

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def median_s(self, work: Callable[[], object], repeats: int = 10, warm_up: int = 3) -> float:
        """Median seconds of `work`, the device waited for each time."""
        times = []
        for number in range(self.pick(warm_up, 1) + self.pick(repeats, 2)):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            if number >= self.pick(warm_up, 1):
                times.append(time.perf_counter() - began)
        return statistics.median(times)

    def mfu(self, flops: int, seconds: float) -> float | None:
        """The part of the board's dense bf16 peak that was used; None on other devices."""
        if self.device.type != "cuda":
            return None
        name = torch.cuda.get_device_name(self.device)
        peak = next((peak for known, peak in GPU_PEAK.items() if known in name), None)
        return None if peak is None else flops / seconds / peak

    def peak_bytes(self) -> int | None:
        """Most memory that tensors took on the device since the last call."""
        if self.device.type != "cuda":
            return None
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak
