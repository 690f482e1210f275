"""The fast path against the slow definition, in float64: loss, every gradient, batch-norm buffers, momentum update."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

from pretrain.fast_moco import FastMoCo
from pretrain.recipes import RECIPES, resolve_recipe
from pretrain.runtime.errors import InputError
from pretrain.step import accumulate_gradients

_spec = importlib.util.spec_from_file_location("definition", Path(__file__).with_name("definition.py"))
definition = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(definition)

TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}


def two_models(recipe, seed=0):
    torch.manual_seed(seed)
    model = FastMoCo(recipe, seed=seed).double().train()
    # Zero-initialised or equal scales would hide mistakes: every parameter gets a value of its own, and the key
    # encoder drifts away from the encoder.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model, copy.deepcopy(model)


def views(recipe, n=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    size = recipe.views.size
    return tuple(torch.randn(n, 3, size, size, dtype=torch.float64, generator=generator) for _ in range(2))


MOCO_V3_HEADS = {
    "grid": 1,
    "combine": 1,
    "projector": {"layers": 2, "hidden": 12, "out": 8, "bias": False, "last_norm": "plain"},
    "predictor": {"layers": 2, "hidden": 12, "out": 8, "bias": False},
    "loss_scale": "sum_2t",
}
VARIANTS = {
    "fast_moco": {},
    "moco": {"grid": 1, "combine": 1},
    "moco_v3": MOCO_V3_HEADS | {"temperature": 0.7},
    "fast_moco_on_moco_v3_heads": MOCO_V3_HEADS | {"grid": 2, "combine": 2},
    "three_of_four": {"combine": 3},
    "one_of_four": {"combine": 1},
    "at_projector": {"combine_at": "projector"},
    "at_predictor": {"combine_at": "predictor"},
    "grid_3": {"grid": 3, "combine": 2, "views.size": 24},
    "temperature_1": {"temperature": 1.0},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_the_definition(small_recipe, variant):
    recipe = small_recipe(**VARIANTS[variant])
    fast, slow = two_models(recipe)
    pair = views(recipe)
    expected = definition.slow_loss(slow, recipe, pair, momentum=0.9)
    expected.backward()
    figures = accumulate_gradients(fast, pair, momentum=0.9)

    torch.testing.assert_close(figures.loss, expected.detach(), **TOLERANCE)
    compared = 0
    for (name, parameter), other in zip(fast.named_parameters(), slow.parameters(), strict=True):
        assert (parameter.grad is None) == (other.grad is None) == name.startswith("momentum_"), name
        if parameter.grad is not None:
            assert other.grad.abs().max() > 1e-8 or "bias" in name, f"{name} has no gradient to compare"
            torch.testing.assert_close(parameter.grad, other.grad, **TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")
            compared += 1
    assert compared > 60
    for (name, value), other in zip(fast.state_dict().items(), slow.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, **TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")


def test_fusing_the_views_would_change_the_gradients(small_recipe):
    """Batch-norm statistics are per view; this is why the two views never share a forward."""
    recipe = small_recipe()
    apart, fused = two_models(recipe)
    pair = views(recipe)
    accumulate_gradients(apart, pair, momentum=1.0)
    with torch.no_grad():
        keys = torch.cat([fused.keys(view) for view in reversed(pair)])
    queries = fused.queries(torch.cat(pair))
    from pretrain.loss import info_nce

    halves = queries.split(4, dim=1)
    loss = (
        info_nce(halves[0], keys[:4], recipe.temperature).loss + info_nce(halves[1], keys[4:], recipe.temperature).loss
    ) / 2
    loss.backward()
    gradient, other = apart.backbone.conv1.weight.grad, fused.backbone.conv1.weight.grad
    assert (gradient - other).norm() > 0.01 * gradient.norm()


def test_momentum_encoder_starts_as_a_copy_or_fresh(small_recipe):
    for init, equal in (("copy", True), ("fresh", False)):
        torch.manual_seed(0)
        model = FastMoCo(small_recipe(momentum_init=init))
        assert torch.equal(model.backbone.conv1.weight, model.momentum_backbone.conv1.weight) is equal
        assert not any(p.requires_grad for p in model.momentum_backbone.parameters())


def test_extra_view_adds_two_terms(small_recipe):
    recipe = small_recipe(extra_view=True)
    model, other = two_models(recipe)
    first, second = views(recipe)
    third = views(recipe, seed=7)[0]
    figures = accumulate_gradients(model, (first, second, third), momentum=0.9)
    G = 6
    two = definition.slow_loss(copy.deepcopy(other), recipe, (first, second), momentum=0.9)
    # The third view, whole, against the keys of the first and of the second.
    with torch.no_grad():
        other.update_momentum_encoder(0.9)
        keys = [other.keys(first), other.keys(second)]
        for view in (first, second):
            other.queries(view)
    query = torch.nn.functional.normalize(other.predictor(other.projector(other.backbone(third))), dim=1)
    extra = [-torch.log_softmax(query @ key.T / recipe.temperature, dim=1).diagonal().mean() for key in keys]
    torch.testing.assert_close(figures.loss, ((2 * G * two + sum(extra)) / (2 * G + 2)).detach(), **TOLERANCE)


def test_micro_batches_keep_the_negatives_of_the_whole_batch(small_recipe):
    """With batch norm in eval mode, where it has no batch statistics, parts and whole give the same gradients."""
    recipe = small_recipe()
    whole, parts = two_models(recipe)
    pair = views(recipe)
    for model, part in ((whole, None), (parts, 2)):
        model.eval()
        figures = accumulate_gradients(model, pair, momentum=0.9, micro_batch_size=part)
        model.loss = figures.loss
    torch.testing.assert_close(whole.loss, parts.loss, **TOLERANCE)
    for (name, a), b in zip(whole.named_parameters(), parts.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, **TOLERANCE, msg=lambda m, name=name: f"{name}: {m}")


def test_bf16_keeps_the_loss_near(small_recipe):
    recipe = small_recipe()
    model, other = two_models(recipe)
    model, other = model.float(), other.float()
    pair = tuple(view.float() for view in views(recipe, n=16))
    exact = accumulate_gradients(model, pair, momentum=0.9)
    low = accumulate_gradients(other, pair, momentum=0.9, precision="bf16")
    assert low.loss.dtype == torch.float32
    assert abs(exact.loss - low.loss) < 0.05
    assert not torch.equal(exact.loss, low.loss)


def test_figures_of_a_collapsed_and_of_a_healthy_batch(small_recipe):
    from pretrain.loss import spread

    generator = torch.Generator().manual_seed(0)
    healthy = torch.nn.functional.normalize(torch.randn(4096, 64, generator=generator), dim=1)
    assert spread(healthy) == pytest.approx(1.0, abs=0.02)
    assert spread(healthy[:1].expand(100, -1)) == pytest.approx(0.0, abs=1e-6)


def test_head_shapes_of_the_published_recipes():
    fast = resolve_recipe("r50_e100", {"backbone": "resnet18"})
    model = FastMoCo(fast)
    assert [tuple(p.shape) for p in model.projector.parameters() if p.ndim == 2] == [
        (2048, 512),
        (2048, 2048),
        (2048, 2048),
    ]
    assert [tuple(p.shape) for p in model.predictor.parameters() if p.ndim == 2] == [(512, 2048), (2048, 512)]
    assert isinstance(model.projector[-1], torch.nn.BatchNorm1d)
    assert model.projector[-1].affine
    v3 = FastMoCo(resolve_recipe("moco_v3_r50_e100", {"backbone": "resnet18"}))
    assert [tuple(p.shape) for p in v3.projector.parameters() if p.ndim == 2] == [(4096, 512), (256, 4096)]
    assert all(layer.bias is None for layer in v3.projector if isinstance(layer, torch.nn.Linear))
    assert not v3.projector[-1].affine
    assert isinstance(v3.predictor[-1], torch.nn.Linear)


def test_a_stride_that_eats_the_patch_is_refused(small_recipe):
    recipe = RECIPES["cifar_resnet20_e10"].override({"backbone": "resnet18"})
    with pytest.raises(InputError, match=r"patches of 16, less than the stride of backbone 'resnet18', 32"):
        FastMoCo(recipe)
