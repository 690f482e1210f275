"""A recipe's model, ready to be trained: its weights drawn from the seed, on the device, compiled where asked."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from pretrain.backbones.batchnorm import across_ranks
from pretrain.fast_moco import FastMoCo
from pretrain.recipe import Recipe
from pretrain.runtime.distributed import Ranks


def compiled(core: FastMoCo, *, backend: str = "inductor") -> nn.Module:
    """`core` with its forward pass compiled, and the momentum encoder, which passes outside of it, as well."""
    core.momentum_backbone.compile(backend=backend)
    core.momentum_projector.compile(backend=backend)
    return cast(nn.Module, torch.compile(core, backend=backend))


def build_model(recipe: Recipe, seed: int, device: torch.device, ranks: Ranks) -> FastMoCo:
    """Weights drawn from `seed` (the same on every rank), on the device, in channels_last and training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FastMoCo(recipe, seed=seed)
    model = model.to(device)
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if ranks.world_size > 1 and recipe.cross_rank_bn:
        across_ranks(model, device)
    return model.train()
