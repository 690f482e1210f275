"""What a training step costs: ours, the public code's, one like MoCo v3's, the backbone alone. Paired ratios.

python -m benchmarks.perf.step [equal|time|memory|micro|save]... [--setting NAME]... [--batch N] [--repeats R]

equal   loss, gradients, buffers and momentum encoder of ours against the public code's, in float64
time    the steps take turns on the same images; FLOPs as torch counts them; on a GPU images/s and MFU besides
memory  the peak of a process that makes nothing but such steps
micro   the peak of a step's tensors against micro_batch_size, for ResNet-50 at 224 and a batch of 512
save    how long saving a state keeps the loop waiting, against a plain torch.save with fsync

With no part named, all run, about ten minutes on one core. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.perf.measures import memory, saving
from benchmarks.perf.measures.turns import count_flops, take_turns
from benchmarks.perf.peers.contestants import (
    BACKBONE,
    MOCO_V3,
    NAIVE,
    NAMES,
    OURS,
    OURS_BF16,
    SETTINGS,
    Setting,
    channels_last,
    make,
    random_views,
)
from benchmarks.perf.peers.steps import NaiveFastMoCo
from pretrain.fast_moco import FastMoCo
from pretrain.model import build_model
from pretrain.recipe import Recipe
from pretrain.runtime.distributed import ALONE
from pretrain.step import accumulate_gradients

PARTS = ("equal", "time", "memory", "micro", "save")
# (setting, faster, slower) -> greatest ratio, of issue "The pretraining core".
TARGETS = {
    ("resnet50@224", OURS, NAIVE): 0.82,
    ("resnet50@224", OURS, BACKBONE): 1.05,
    ("resnet50@224", OURS_BF16, NAIVE): 0.52,
    ("resnet18@64", OURS, NAIVE): 0.88,
    ("resnet18@64", OURS_BF16, NAIVE): 0.52,
}
# Dense bf16 tensor-core FLOP/s by NVIDIA's data sheets (SXM boards), which MFU is a part of.
GPU_PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12}
EQUAL_TO = 1e-5


def naive_with_weights_of(model: FastMoCo, recipe: Recipe) -> NaiveFastMoCo:
    """The public code's model with our weights: both list the same tensors in the same order."""
    naive = NaiveFastMoCo(recipe).to(next(model.parameters()))
    with torch.no_grad():
        for tensor, value in zip(_of_naive(naive), _of_ours(model), strict=True):
            tensor.copy_(value)
    return naive


def _of_ours(model: FastMoCo) -> list[Tensor]:
    modules = model.backbone, model.projector, model.predictor, model.momentum_backbone, model.momentum_projector
    return [tensor for module in modules for tensor in module.state_dict(keep_vars=True).values()]


def _of_naive(naive: NaiveFastMoCo) -> list[Tensor]:
    modules = naive.encoder, naive.predictor, naive.momentum_encoder
    return [tensor for module in modules for tensor in module.state_dict(keep_vars=True).values()]


def differences(setting: Setting, batch: int = 4) -> dict[str, float]:
    """Greatest relative difference, in float64, of the loss, any gradient, and any tensor after one step's passes.

    The norm of a tensor's difference by its norm, or by 1e-6 of the greatest norm where its own is smaller than that
    (the bias before a batch norm has a gradient of 0, and rounding makes something of it).
    """
    recipe = setting.recipe(batch)
    model = build_model(recipe, 0, torch.device("cpu"), ALONE).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():  # equal or zero-initialised scales would hide mistakes
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    naive = naive_with_weights_of(model, recipe)
    views = random_views(batch, setting.size, torch.device("cpu"), torch.float64)
    expected = naive(*views)
    expected.backward()
    figures = accumulate_gradients(model, channels_last(views), momentum=recipe.momentum)
    pairs = list(zip(_of_ours(model), _of_naive(naive), strict=True))
    floating = [(ours.detach(), theirs.detach()) for ours, theirs in pairs if ours.is_floating_point()]
    return {
        "loss": _relative([(figures.loss, expected.detach())]),
        "gradients": _relative([(a.grad, b.grad) for a, b in pairs if a.grad is not None and b.grad is not None]),
        "buffers and momentum encoder": _relative(floating),
    }


def _relative(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    least = 1e-6 * max(theirs.norm().item() for _, theirs in pairs)
    return max(((ours - theirs).norm() / theirs.norm().clamp(min=least)).item() for ours, theirs in pairs)


def require_equal(setting_name: str) -> None:
    """Print the differences; stop when one is above 1e-5, for then the times compare different work."""
    found = differences(SETTINGS[setting_name])
    listed = ", ".join(f"{what} {value:.0e}" for what, value in found.items())
    print(f"\n{setting_name}, float64, ours against the public code, greatest relative difference: {listed}")
    assert max(found.values()) < EQUAL_TO, "ours and the public code's step do different work"


def compare_times(setting_name: str, batch: int, repeats: int, device: torch.device) -> dict[tuple[str, str], float]:
    """Medians of paired ratios of time; prints them, times, FLOPs and targets."""
    setting = SETTINGS[setting_name]
    gpu = device.type == "cuda"
    steps = {name: make(name, setting, batch, device, bf16=gpu) for name in NAMES if not (gpu and name == OURS_BF16)}
    flops = count_flops(steps)
    times = take_turns(steps, repeats, device)
    where = torch.cuda.get_device_name(device) + ", bf16" if gpu else "CPU seconds of one thread"
    print(f"\n{setting_name}, batch {batch}, {where}, torch {torch.__version__}, {repeats} rounds")
    print(f"{'step':<16}{'ms':>8}{'GFLOP':>9}{'images/s':>10}{'/ public code (quartiles)':>30}")
    for name, values in times.items():
        paired = [a / b for a, b in zip(values, times[NAIVE], strict=True)]
        low, middle, high = statistics.quantiles(paired, n=4)
        ms = 1e3 * statistics.median(values)
        row = f"{name:<16}{ms:>8.0f}{flops[name] / 1e9:>9.1f}{1e3 * batch / ms:>10.1f}"
        mfu = f"   MFU {100 * share:.0f} %" if (share := _mfu(flops[name], ms / 1e3, device)) else ""
        print(f"{row}{middle:>15.3f} ({low:.3f} to {high:.3f}){mfu}")
    ratios = {}
    for (of, one, other), target in TARGETS.items():
        if of == setting_name and one in times and other in times:
            ratio = statistics.median(a / b for a, b in zip(times[one], times[other], strict=True))
            ratios[one, other] = ratio
            print(f"{one} / {other}: {ratio:.3f}, target {target}: {'met' if ratio <= target else 'MISSED'}")
    ratio = statistics.median(a / b for a, b in zip(times[NAIVE], times[MOCO_V3], strict=True))
    print(f"{NAIVE} / {MOCO_V3}: {ratio:.3f}, of FLOPs {flops[NAIVE] / flops[MOCO_V3]:.3f}")
    return ratios


def _mfu(flops: int, seconds: float, device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    peak = next((peak for known, peak in GPU_PEAK.items() if known in name), None)
    return None if peak is None else flops / seconds / peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"any of {', '.join(PARTS)}; all when none is given", metavar="PART")
    parser.add_argument("--setting", choices=SETTINGS, action="append", help="may be given more than once")
    parser.add_argument("--batch", type=int, help="images of a step, instead of the setting's")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=NAMES, help=argparse.SUPPRESS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.parts == ["process"]:  # what `memory` starts
        setting = SETTINGS[given.setting[0]]
        print(memory.peak_of_process(given.only, setting, given.batch))
        return
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; expected {', '.join(PARTS)}")
    parts = given.parts or PARTS
    for name in given.setting or SETTINGS:
        batch = given.batch or SETTINGS[name].batch
        if "equal" in parts or "time" in parts:
            require_equal(name)
        if "time" in parts:
            compare_times(name, batch, given.repeats, torch.device(given.device))
        if "memory" in parts:
            memory.compare_processes(name, batch)
    if "micro" in parts:
        memory.micro_batch_curve()
    if "save" in parts:
        saving.compare(given.repeats)


if __name__ == "__main__":
    main()
