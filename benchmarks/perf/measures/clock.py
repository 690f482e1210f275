"""The time that a step takes."""

from __future__ import annotations

import time

import torch


def clock(device: torch.device) -> float:
    """Seconds: of the wall once the GPU has done all, or of this process on the CPU, which others cannot lengthen."""
    if device.type != "cuda":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()
