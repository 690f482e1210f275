"""What evaluations ask of a device: features, neighbours, many linear classifiers at once."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from benchmarks.perf.gpu_parts.machine import Machine
from benchmarks.perf.measures.turns import count_flops
from evaluate import knn as neighbours
from evaluate.frozen.features import Features
from evaluate.frozen.heads import scaling_of, train_heads
from evaluate.protocols.knn import PROTOCOLS
from evaluate.protocols.linear import PROTOCOLS as LINEAR
from pretrain.backbones.registry import build


def extraction(machine: Machine) -> dict[str, Any]:
    """images/s and MFU of a frozen forward pass at 224 pixels."""
    result: dict[str, Any] = {}
    names = ("cifar_resnet20",) if machine.small else ("resnet50", "timm:vit_base_patch16_224")
    batch, side = machine.pick(256, 4), machine.pick(224, 32)
    for name in names:
        model = build(name).eval().requires_grad_(False).to(machine.device)
        images = torch.randn(batch, 3, side, side).to(machine.device)
        for precision in ("float32", "bf16"):

            @torch.no_grad()
            def forward(model: Any = model, images: Any = images, low: bool = precision == "bf16") -> object:
                with torch.autocast(machine.device.type, torch.bfloat16, enabled=low):
                    return model(images)

            flops = count_flops({name: forward})[name]
            seconds = machine.median_s(forward)
            figures = {"images_per_s": batch / seconds, "mfu": machine.mfu(flops, seconds)}
            result[f"{name} {precision}"] = figures
    return result


def _features(n: int, width: int, classes: int, seed: int) -> Features:
    """Random features; what is far more than a block is the block again and again, which costs no time to draw."""
    drawn = np.random.default_rng(seed).standard_normal((min(n, 65_536), width), dtype=np.float32)
    values = np.resize(drawn, (n, width)) if n > len(drawn) else drawn
    return Features(values, np.arange(n), np.arange(n, dtype=np.int64) % classes)


def knn(machine: Machine) -> dict[str, Any]:
    """Seconds of the exact search that `evaluate knn` does; target: under 10 on an H100."""
    n, queries, width = machine.pick(1_281_167, 300), machine.pick(50_000, 40), machine.pick(2048, 16)
    settings = PROTOCOLS["dino"].model_copy(update={"train_block": machine.pick(65_536, 64)})
    train, asked = _features(n, width, 1000, 0), _features(queries, width, 1000, 1)
    began = time.perf_counter()
    seen = sum(len(index) for _, _, index in neighbours.neighbours(train, asked, 20, settings, machine.device))
    seconds = time.perf_counter() - began
    assert seen == queries
    return {"train": n, "queries": queries, "width": width, "seconds": seconds, "peak_bytes": machine.peak_bytes()}


def sweep(machine: Machine) -> dict[str, Any]:
    """Seconds of an epoch of the sweep's classifiers, side by side."""
    protocol = LINEAR["sweep"]
    n, width, classes = machine.pick(100_000, 200), machine.pick(2048, 16), machine.pick(1000, 10)
    train = _features(n, width, classes, 0)
    lrs = list(protocol.lrs)  # type: ignore[attr-defined]
    scaling = scaling_of(train, machine.device)
    began = time.perf_counter()
    options: dict[str, Any] = {"epochs": 1, "batch_size": machine.pick(1024, 50), "momentum": 0.9}
    train_heads(train, classes, lrs, [0.0] * len(lrs), scaling=scaling, seed=0, device=machine.device, **options)
    machine.wait()
    return {"classifiers": len(lrs), "features": n, "seconds_per_epoch": time.perf_counter() - began}
