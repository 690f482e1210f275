"""The estimate's figures: sizes of backbones, and what a pretraining keeps on disk."""

from __future__ import annotations

import pytest

from benchmarks.campaign.cost import SIZES, _disk_bytes
from pretrain.backbones.registry import build
from pretrain.fast_moco import FastMoCo
from pretrain.recipes import RECIPES


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_backbones(name: str) -> None:
    backbone = build(name)
    assert SIZES[name] == (sum(weight.numel() for weight in backbone.parameters()), backbone.width)


def test_the_disk_of_a_pretraining_is_its_states_and_backbones() -> None:
    recipe = RECIPES["cifar_resnet20_e10"]
    model = FastMoCo(recipe)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    copied = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    files = SIZES[recipe.backbone][0] * (1 + len(recipe.keep_epochs))
    # Two states: what is trained, its momentum in SGD, and the momentum encoder; four bytes a number.
    exact = 4 * (2 * (2 * trained + copied) + files)
    assert _disk_bytes(recipe.model_dump(mode="json")) == pytest.approx(exact, rel=0.02)
