"""Small recipes for tests of the core."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pretrain.recipe import Recipe
from pretrain.recipes import RECIPES


@pytest.fixture(scope="session")
def small_recipe() -> Callable[..., Recipe]:
    """`small_recipe(field=value, ...)`: Fast-MoCo on 16-pixel views with small heads."""

    def make(**changes: Any) -> Recipe:
        small = {
            "name": "small",
            "views.size": 16,
            "projector": {"layers": 3, "hidden": 12, "out": 8, "last_norm": "affine"},
            "predictor": {"layers": 2, "hidden": 6, "out": 8},
            "global_batch_size": 4,
            "reference_batch": 4,
        }
        return RECIPES["cifar_resnet20_e10"].override(small | changes)

    return make
