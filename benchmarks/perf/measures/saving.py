"""How long saving a state keeps the training loop waiting, against a plain `torch.save` with fsync."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.perf.peers.contestants import SETTINGS
from pretrain.model import build_model
from pretrain.optim import build_optimizer
from pretrain.runtime.distributed import ALONE
from pretrain.state import StateStore

TARGET = 0.15


def state_of(setting_name: str) -> dict[str, Any]:
    """What a run of the published recipe saves: model and optimizer, with its momentum."""
    recipe = SETTINGS[setting_name].recipe(512)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_model(recipe, 0, device, ALONE)
    optimizer = build_optimizer(recipe, model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def compare(repeats: int, directory: Path | None = None) -> float:
    """Print and return the median of blocking time of ours / time of the plain save, which take turns."""
    state = state_of("resnet50@224")
    plain, blocking, whole = [], [], []
    with tempfile.TemporaryDirectory(dir=directory) as temporary:
        store = StateStore(Path(temporary) / "state")
        path = Path(temporary) / "plain.pt"
        for step in range(repeats + 1):
            began = time.perf_counter()
            with path.open("wb") as stream:
                torch.save(state, stream)
                stream.flush()
                os.fsync(stream.fileno())
            plain.append(time.perf_counter() - began)
            size = path.stat().st_size
            path.unlink()
            began = time.perf_counter()
            store.save(step, state)
            blocking.append(time.perf_counter() - began)
            store.finish()
            whole.append(time.perf_counter() - began)
    print(f"\nsaving {size / 1e6:.0f} MB, median of {repeats}, in {Path(temporary).parent}:")
    print(f"plain torch.save and fsync {1e3 * statistics.median(plain[1:]):.0f} ms")
    print(
        f"ours keeps the loop waiting {1e3 * statistics.median(blocking[1:]):.0f} ms (the first time, when its buffers "
        f"are made, {1e3 * blocking[0]:.0f} ms), is on the disk after {1e3 * statistics.median(whole[1:]):.0f} ms"
    )
    ratio = statistics.median(a / b for a, b in zip(blocking[1:], plain[1:], strict=True))
    print(f"waiting / plain save: {ratio:.3f}, target {TARGET}: {'met' if ratio <= TARGET else 'MISSED'}")
    return ratio
