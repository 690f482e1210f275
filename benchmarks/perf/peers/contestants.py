"""The steps that `benchmarks.perf.step` compares, by name, each on weights and images of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.perf.peers.steps import (
    BackboneStep,
    LoopedLars,
    Low,
    MoCoV3,
    NaiveFastMoCo,
    Views,
    moco_v3_step,
    naive_step,
    our_step,
)
from pretrain.model import build_model
from pretrain.optim import build_optimizer
from pretrain.recipe import Recipe
from pretrain.recipes import resolve_recipe
from pretrain.runtime.distributed import ALONE

OURS, NAIVE, MOCO_V3, BACKBONE, OURS_BF16 = "ours", "public code", "MoCo v3", "backbone alone", "ours, bf16"
NAMES = (OURS, NAIVE, MOCO_V3, BACKBONE, OURS_BF16)
Step = Callable[[], Tensor]


@dataclass(frozen=True)
class Setting:
    """A backbone at a view size, and how many images a step has where none is said."""

    backbone: str
    size: int
    batch: int

    def recipe(self, batch: int, base: str = "r50_e100", **changes: Any) -> Recipe:
        """Fast-MoCo's recipe (or another) on this backbone and size."""
        ours = {"backbone": self.backbone, "views.size": self.size, "global_batch_size": batch}
        return resolve_recipe(base, ours | changes)


SETTINGS = {"resnet50@224": Setting("resnet50", 224, 8), "resnet18@64": Setting("resnet18", 64, 64)}


def random_views(batch: int, size: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Views:
    """Two of (batch, 3, size, size), always the same."""
    generator = torch.Generator().manual_seed(0)
    one, two = (torch.randn(batch, 3, size, size, generator=generator, dtype=dtype).to(device) for _ in range(2))
    return one, two


def channels_last(views: Views) -> Views:
    """The same values, a pixel's channels side by side."""
    one, two = (view.contiguous(memory_format=torch.channels_last) for view in views)
    return one, two


def make(name: str, setting: Setting, batch: int, device: torch.device, *, bf16: bool = False) -> Step:
    """A step to call again and again. `bf16` puts all of them under autocast, for GPUs."""
    plain = random_views(batch, setting.size, device)
    recipe = setting.recipe(batch)
    low: Low = partial(torch.autocast, device.type, torch.bfloat16) if bf16 else nullcontext
    torch.manual_seed(0)
    if name == NAIVE:
        naive = NaiveFastMoCo(recipe).to(device)
        sgd = torch.optim.SGD(naive.parameters(), lr=recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay)
        return lambda: naive_step(naive, plain, sgd, low)
    if name == MOCO_V3:
        v3_recipe = setting.recipe(batch, "moco_v3_r50_e100")
        v3 = MoCoV3(v3_recipe).to(device)
        lars = LoopedLars(v3.parameters(), lr=v3_recipe.lr, weight_decay=v3_recipe.weight_decay)
        return lambda: moco_v3_step(v3, plain, lars, low)
    views = channels_last(plain)
    model = build_model(recipe, 0, device, ALONE)
    if name == BACKBONE:
        alone = BackboneStep(model, recipe)
        return lambda: alone(views, low)
    assert name in (OURS, OURS_BF16)
    optimizer = build_optimizer(recipe, model)
    precision = "bf16" if bf16 or name == OURS_BF16 else "float32"
    return lambda: our_step(model, recipe, views, optimizer, precision)
