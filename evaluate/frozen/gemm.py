"""Matrix products on the faster library: on a CPU numpy's BLAS, on anything else torch's.

torch's wheels bring MKL, whose kernels for AMD processors are slow; numpy's OpenBLAS has kernels for them. On a Zen 5
core numpy gave 2.3 times torch's rate (`benchmarks/perf/probe.py` prints both). The choice does not depend on a
measurement, so that a run gives the same bits each time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def matmul(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """(M, D) @ (D, N) -> (M, N), without gradients; written to `out` when given."""
    if a.device.type != "cpu" or a.dtype not in (torch.float32, torch.float64):
        return torch.matmul(a, b, out=out)
    if out is None:
        out = torch.empty(a.shape[0], b.shape[1], dtype=a.dtype)
    with np.errstate(all="ignore"):  # as torch: infinities and NaNs go through, and the caller looks for them
        np.matmul(a.numpy(), b.numpy(), out=out.numpy())
    return out
