"""The memory that a step needs: exact bytes of tensors, what a process holds, and the curve over micro batches."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.perf.measures.tensor_bytes import TensorBytes
from benchmarks.perf.peers import contestants
from benchmarks.perf.peers.contestants import NAIVE, NAMES, OURS, OURS_BF16, SETTINGS, Setting
from benchmarks.perf.peers.steps import our_step
from pretrain.fast_moco import FastMoCo
from pretrain.optim import build_optimizer

TARGET, GPU_BYTES = 0.80, 24e9


def peak_of_process(name: str, setting: Setting, batch: int) -> int:
    """Bytes: run two steps in this process, and read its highest resident size (on a GPU: its highest allocation)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(1)
    step = contestants.make(name, setting, batch, device)
    for _ in range(2):
        step()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare_processes(setting_name: str, batch: int) -> dict[str, float]:
    """Each contestant in a process of its own; prints and returns the peaks in bytes."""
    peaks = {}
    for name in NAMES:
        command = [sys.executable, "-m", "benchmarks.perf.step", "process", "--setting", setting_name]
        command += ["--batch", str(batch), "--only", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks[name] = float(done.stdout)
    held = "allocated on the GPU" if torch.cuda.is_available() else "resident, libraries and weights included"
    print(f"\n{setting_name}, batch {batch}: peak of the process ({held})")
    for name, peak in peaks.items():
        print(f"{name:<16}{peak / 1e9:>8.2f} GB{peak / peaks[NAIVE]:>8.2f} x the public code's")
    for name in (OURS, OURS_BF16):
        ratio = peaks[name] / peaks[NAIVE]
        print(f"{name} / public code: {ratio:.2f}, target {TARGET}: {'met' if ratio <= TARGET else 'MISSED'}")
    return peaks


def _held(model: nn.Module, optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    yield from model.state_dict().values()
    for parameter in model.parameters():
        if parameter.grad is not None:
            yield parameter.grad
    for state in optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor))


def peak_of_tensors(setting: Setting, batch: int, precision: str, micro: int | None, *, fake: bool) -> tuple[int, int]:
    """Bytes alive between steps, and the most during one of our steps, views and optimizer included.

    With `fake`, tensors have shapes but no values: the same operations return the same storages, at no cost, so that
    sizes that no machine here has room for can be counted. (A test compares both: equal, in bf16 within 0.1 %.)
    """
    # `fresh`, as fake parameters cannot be deep-copied; it changes values alone.
    recipe = setting.recipe(batch, micro_batch_size=micro, momentum_init="fresh")
    with FakeTensorMode(allow_non_fake_inputs=True) if fake else torch.enable_grad():
        model = FastMoCo(recipe).train()
        optimizer = build_optimizer(recipe, model)
        shape = (batch, 3, setting.size, setting.size)
        one, two = (torch.ones(shape).contiguous(memory_format=torch.channels_last) for _ in range(2))
        our_step(model, recipe, (one, two), optimizer, precision)  # the optimizer has its state now
        with TensorBytes([*_held(model, optimizer), one, two]) as followed:
            between = followed.now
            our_step(model, recipe, (one, two), optimizer, precision)
    return between, followed.peak


def micro_batch_curve(batch: int = 512) -> dict[tuple[str, int | None], int]:
    """Prints and returns the peak of a step of ResNet-50 at 224 against micro_batch_size, in bytes."""
    setting = SETTINGS["resnet50@224"]
    curve: dict[tuple[str, int | None], int] = {}
    print(
        f"\nresnet50@224, batch {batch} on one device: bytes of tensors at the peak of a step, counted on fake tensors"
    )
    print("(a GPU adds what its kernels and its allocator use: leave 1 to 2 GB)")
    print(f"{'micro_batch_size':<18}{'float32':>12}{'bf16':>12}")
    sizes = [None, *(batch // parts for parts in (2, 4, 8, 16, 32))]
    for micro in sizes:
        for precision in ("float32", "bf16"):
            _, curve[precision, micro] = peak_of_tensors(setting, batch, precision, micro, fake=True)
        row = "".join(f"{curve[precision, micro] / 1e9:>9.1f} GB" for precision in ("float32", "bf16"))
        print(f"{'whole batch' if micro is None else micro:<18}{row}", flush=True)
    fits = [size for size in sizes if curve["bf16", size] < GPU_BYTES]
    print(
        f"bf16 fits {GPU_BYTES / 1e9:.0f} GB with micro_batch_size {fits[0] or batch} and below" if fits else "MISSED"
    )
    return curve
