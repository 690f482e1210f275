"""The emulated device's module on the path, and a recipe that takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.recipe import Recipe
from pretrain.recipes import RECIPES

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def small_recipe() -> Callable[..., Recipe]:
    """`small_recipe(field=value, ...)`: Fast-MoCo on 16-pixel views with small heads."""
    small = {
        "views.size": 16,
        "projector": {"layers": 3, "hidden": 12, "out": 8, "last_norm": "affine"},
        "predictor": {"layers": 2, "hidden": 6, "out": 8},
        "global_batch_size": 4,
        "reference_batch": 4,
        "warmup_epochs": 0,
    }

    def make(**changes: Any) -> Recipe:
        return RECIPES["cifar_resnet20_e10"].override(small | changes)

    return make
