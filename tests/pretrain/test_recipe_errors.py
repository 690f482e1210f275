"""What does not fit together is one sentence that names the field and what it may be."""

from __future__ import annotations

import pytest

from pretrain.batches import batch_of_rank
from pretrain.fast_moco import FastMoCo
from pretrain.patches import patch_size
from pretrain.recipes import RECIPES, resolve_recipe
from pretrain.runtime.errors import InputError

R50 = RECIPES["r50_e100"]


@pytest.mark.parametrize(("changes", "says"), [
    ({"views.size": 225}, r"grid 2 does not divide views of 225 pixels; grid may be 1, 3"),
    ({"grid": 3}, r"grid 3 does not divide views of 224 pixels; grid may be 1, 2"),
    ({"grid": 4}, r"grid.*1, 2 or 3"),
    ({"combine": 5}, r"combine is 5, expected 1 to 4: grid 2 makes 4 patches"),
    ({"grid": 1}, r"combine is 2, expected 1 to 1: grid 1 makes 1 patches"),
    ({"predictor.out": 128}, r"predictor.out is 128, expected projector.out, 2048"),
    ({"keep_epochs": [101]}, r"keep_epochs is \[101\], expected epochs from 1 to 100"),
    ({"warmup_epochs": 100}, r"warmup_epochs is 100, expected fewer than epochs, 100"),
    ({"global_batch_size": 1}, r"global_batch_size is 1, expected at least 2"),
    ({"micro_batch_size": 1}, r"micro_batch_size is 1, expected at least 2"),
    ({"temperature": 0}, r"temperature is .*, expected more than 0"),
    ({"combine_at": "head"}, r"combine_at.*'backbone', 'projector' or 'predictor'"),
    ({"precision": "fp8"}, r"precision.*'float32' or 'bf16'"),
    ({"learning_rate": 1.0}, r"learning_rate"),
])  # fmt: skip
def test_a_recipe_that_contradicts_itself(changes, says):
    with pytest.raises(InputError, match=says) as told:
        R50.override(changes)
    assert "\n" not in str(told.value)


def test_a_recipe_that_does_not_exist(tmp_path):
    with pytest.raises(InputError, match=r"unknown recipe 'r50'.*r50_e100"):
        resolve_recipe("r50")
    path = tmp_path / "mine.yaml"
    path.write_text("base: r50_e100\ncombine: 7\n")
    with pytest.raises(InputError, match=r"combine is 7, expected 1 to 4"):
        resolve_recipe(path)


@pytest.mark.parametrize(("batch", "ranks", "micro", "says"), [
    (2000, 1, None, "global_batch_size is 2000, but there are only 1000 images to train on"),
    (64, 3, None, "global_batch_size is 64, expected a multiple of the 3 ranks"),
    (64, 64, None, "global_batch_size is 64 on 64 ranks, expected at least 2 images a rank"),
    (64, 2, 12, "micro_batch_size is 12, expected a divisor of a rank's batch, 32"),
])  # fmt: skip
def test_a_batch_that_ranks_cannot_share(batch, ranks, micro, says):
    recipe = R50.override({"global_batch_size": batch, "micro_batch_size": micro})
    with pytest.raises(InputError, match=says):
        batch_of_rank(recipe, 1000, ranks)


def test_a_batch_that_they_can():
    assert batch_of_rank(R50.override({"micro_batch_size": 16}), 1000, 8) == 64


def test_an_overlap_off_the_pixels_and_a_stride_that_eats_the_patch():
    with pytest.raises(InputError, match=r"overlap 0\.3 gives patches of 145\.6 pixels"):
        patch_size(224, 2, 0.3)
    small = RECIPES["cifar_resnet20_e10"].override({"backbone": "resnet18"})
    with pytest.raises(InputError, match=r"less than the stride of backbone 'resnet18', 32: expected a smaller grid"):
        FastMoCo(small)
