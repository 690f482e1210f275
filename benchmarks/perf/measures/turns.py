"""What steps take that have their turns on one machine, and how much arithmetic they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch
from torch.utils.flop_counter import FlopCounterMode

Steps = Mapping[str, Callable[[], object]]


def count_flops(steps: Steps) -> dict[str, int]:
    """FLOPs of one step of each, as torch counts them."""
    flops = {}
    for name, step in steps.items():
        with FlopCounterMode(display=False) as counter:
            step()
        flops[name] = counter.get_total_flops()
    return flops


def take_turns(steps: Steps, repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each step in each of `repeats` rounds; every other round goes backwards. One more warms up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        order = list(steps) if repeat % 2 else list(reversed(list(steps)))
        for name in order:
            began = _clock(device)
            steps[name]()
            times[name].append(_clock(device) - began)
    return {name: values[1:] for name, values in times.items()}


def _clock(device: torch.device) -> float:
    """Seconds: of the wall once the GPU has done all, or of this process on the CPU, which others cannot lengthen."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
