"""The pretraining's step on a device: is it the CPU's, and what does it cost."""

from __future__ import annotations

import io
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from benchmarks.perf.gpu_parts.machine import Machine
from benchmarks.perf.measures.turns import count_flops
from benchmarks.perf.peers.contestants import BACKBONE, MOCO_V3, NAIVE, OURS, Setting, channels_last, make, random_views
from benchmarks.perf.peers.steps import our_step
from pretrain.data.catalog import Catalog, ImageFolderEntry, ShapesEntry
from pretrain.model import build_model, compiled
from pretrain.optim import build_optimizer
from pretrain.runtime.distributed import ALONE
from pretrain.step import accumulate_gradients
from pretrain.views.settings import VIEWS
from pretrain.views.two_views import two_view_loader

_STEPS = (OURS, BACKBONE, NAIVE, MOCO_V3)


def _setting(machine: Machine) -> Setting:
    # resnet18 in the small size: the public code's model needs one of torchvision's.
    return Setting("resnet18", 64, 4) if machine.small else Setting("resnet50", 224, 512)


def equal(machine: Machine) -> dict[str, Any]:
    """Greatest relative difference of loss and gradients: the device in float32 (TF32 off) and bf16 against the CPU."""
    setting = Setting("resnet18", 64, 16)
    recipe = setting.recipe(16)
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        found = {}
        for name, device, precision in (
            ("cpu", torch.device("cpu"), "float32"),
            ("float32", machine.device, "float32"),
            ("bf16", machine.device, "bf16"),
        ):
            model = build_model(recipe, 0, device, ALONE)
            views = channels_last(random_views(16, setting.size, device))
            figures = accumulate_gradients(model, views, momentum=0.99, precision=precision)
            gradients = {key: p.grad.cpu() for key, p in model.named_parameters() if p.grad is not None}
            found[name] = (figures.loss.item(), gradients)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn
    loss, gradients = found["cpu"]
    largest = max(gradient.norm().item() for gradient in gradients.values())
    result: dict[str, Any] = {"loss_cpu": loss}
    for name in ("float32", "bf16"):
        other, others = found[name]
        result[f"loss_{name}"] = abs(other - loss) / abs(loss)
        result[f"gradients_{name}"] = max(
            (others[key] - gradient).norm().item() / max(gradient.norm().item(), 1e-3 * largest)
            for key, gradient in gradients.items()
        )
    return result


def steps(machine: Machine) -> dict[str, Any]:
    """images/s, MFU, and the ratio to the bare backbone (target 1.05 on an H100), under bf16."""
    setting, gpu = _setting(machine), machine.device.type == "cuda"
    result: dict[str, Any] = {"batch": setting.batch, "backbone": setting.backbone}
    for name in _STEPS:
        step = make(name, setting, setting.batch, machine.device, bf16=gpu)
        flops = count_flops({name: step})[name]
        machine.peak_bytes()
        seconds = machine.median_s(step)
        result[name] = {
            "ms": 1e3 * seconds,
            "images_per_s": setting.batch / seconds,
            "gflop": flops / 1e9,
            "mfu": machine.mfu(flops, seconds),
            "peak_bytes": machine.peak_bytes(),
        }
        del step
        if gpu:
            torch.cuda.empty_cache()
    result["ours_over_backbone"] = result[OURS]["ms"] / result[BACKBONE]["ms"]
    result["ours_over_public_code"] = result[OURS]["ms"] / result[NAIVE]["ms"]
    return result


def compiled_step(machine: Machine) -> dict[str, Any]:
    """Seconds until the first compiled step has ended, and images/s after it."""
    setting = _setting(machine)
    recipe = setting.recipe(setting.batch)
    core = build_model(recipe, 0, machine.device, ALONE)
    optimizer = build_optimizer(recipe, core)
    model: nn.Module = compiled(core)
    views = channels_last(random_views(setting.batch, setting.size, machine.device))
    precision = "bf16" if machine.device.type == "cuda" else "float32"

    def step() -> object:
        return our_step(model, recipe, views, optimizer, precision)  # type: ignore[arg-type]

    began = time.perf_counter()
    step()
    machine.wait()
    first = time.perf_counter() - began
    seconds = machine.median_s(step)
    return {"first_s": first, "ms": 1e3 * seconds, "images_per_s": setting.batch / seconds}


def loader(machine: Machine) -> dict[str, Any]:
    """images/s of the two-view loader on JPEGs of 500 x 375 pixels: all on workers, and finished on the device."""
    workers = min(os.cpu_count() or 1, machine.pick(16, 0))
    batch, count = machine.pick(512, 4), machine.pick(4096, 12)
    shapes = Catalog({"s": ShapesEntry(format="shapes", size=machine.pick(256, 40), train=10)}).images("s", "train")
    result: dict[str, Any] = {"workers": workers, "images": count}
    with tempfile.TemporaryDirectory() as folder:
        for index in range(count):
            place = Path(folder) / f"class{index % 10}"
            place.mkdir(exist_ok=True)
            if index < 10:
                stream = io.BytesIO()
                Image.fromarray(shapes.decode(index)).resize((500, 375)).save(stream, format="JPEG", quality=90)
                content = stream.getvalue()
            (place / f"{index:05d}.jpg").write_bytes(content)
        images = Catalog({"j": ImageFolderEntry(format="imagefolder", train=folder)}).images("j", "train")
        for where in ("workers", "device"):
            spec = VIEWS["moco_v2"].model_copy(update={"size": machine.pick(224, 32), "where": where})
            batches = two_view_loader(
                images, spec, batch_size_per_rank=batch, seed=0, epoch=0, workers=workers, device=machine.device
            )
            began, seen = 0.0, 0
            for number, (view, *_) in enumerate(batches):
                machine.wait()
                if number == 0:
                    began = time.perf_counter()  # starting the workers is no part of the rate
                else:
                    seen += len(view)
            result[f"{where}_images_per_s"] = seen / (time.perf_counter() - began)
    return result
