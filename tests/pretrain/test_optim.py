"""The optimizers against their formulas, written out in float64; schedules at points computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from pretrain.model import build_model
from pretrain.optim import LARS, build_optimizer, cosine_momentum, load_optimizer_state, split_by_decay, warmup_cosine
from pretrain.runtime.distributed import ALONE
from pretrain.step import accumulate_gradients

CPU = torch.device("cpu")


def views(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(4, 3, 16, 16, generator=generator, dtype=torch.float64) for _ in range(2)]
    return [view.contiguous(memory_format=torch.channels_last) for view in made]


def lars_update(weight, gradient, buffer, *, lr, momentum, decay, trust):
    """You et al. 2017, algorithm 1, with the local rate before the momentum; vectors take the plain step."""
    if weight.ndim > 1:
        gradient = gradient + decay * weight
        gradient = gradient * (trust * math.sqrt((weight**2).sum()) / math.sqrt((gradient**2).sum()))
    buffer = momentum * buffer + gradient
    return weight - lr * buffer, buffer


def sgd_update(weight, gradient, buffer, *, lr, momentum, decay):
    buffer = momentum * buffer + gradient + decay * weight
    return weight - lr * buffer, buffer


@pytest.mark.parametrize("optimizer_name", ["sgd", "lars"])
def test_three_steps_equal_the_formula(small_recipe, optimizer_name):
    """On the model as it trains: channels_last, where fused kernels read raw memory and layouts must agree."""
    recipe = small_recipe(optimizer=optimizer_name, decay_1d=optimizer_name == "sgd", weight_decay=0.01)
    torch.manual_seed(0)
    model = build_model(recipe, 0, CPU, ALONE).double()
    optimizer = build_optimizer(recipe, model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    expected = {name: p.detach().clone() for name, p in trained.items()}
    buffers = {name: torch.zeros_like(p) for name, p in expected.items()}
    for step in range(3):
        optimizer.zero_grad()
        accumulate_gradients(model, views(step), momentum=0.9)
        rates = {"lr": recipe.lr, "momentum": 0.9, "decay": 0.01}
        for name, parameter in trained.items():
            assert parameter.grad is not None
            given = expected[name], parameter.grad.clone(), buffers[name]
            if optimizer_name == "lars":
                expected[name], buffers[name] = lars_update(*given, **rates, trust=0.001)
            else:
                expected[name], buffers[name] = sgd_update(*given, **rates)
        optimizer.step()
        if step == 1:  # resumed in the middle, from buffers that lie in memory as no weight does
            state = optimizer.state_dict()
            for values in state["state"].values():
                values["momentum_buffer"] = values["momentum_buffer"].contiguous()
            optimizer = build_optimizer(recipe, model)
            load_optimizer_state(optimizer, state)
    for name, parameter in trained.items():
        torch.testing.assert_close(
            parameter.detach(), expected[name], rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_lars_takes_the_plain_step_where_there_is_no_direction():
    for weight, gradient in ((torch.zeros(2, 2), torch.ones(2, 2)), (torch.ones(2, 2), torch.zeros(2, 2))):
        parameter = torch.nn.Parameter(weight.clone())
        parameter.grad = gradient.clone()
        LARS([parameter], lr=0.5).step()
        assert torch.equal(parameter.detach(), weight - 0.5 * gradient)


def test_vectors_are_without_decay_when_asked():
    named = [("weight", torch.ones(2, 2)), ("bias", torch.ones(2)), ("scale", torch.ones(3))]
    assert [len(part) for part in split_by_decay(named, decay_1d=False)] == [1, 2]
    assert [len(part) for part in split_by_decay(named, decay_1d=True)] == [3, 0]


def test_schedules():
    lrs = [warmup_cosine(step, 14, warmup=4, base_lr=1.0, start_lr=0.2) for step in (0, 2, 4, 9, 14)]
    assert lrs == pytest.approx([0.2, 0.6, 1.0, 0.5, 0.0])
    assert [cosine_momentum(step, 10, 0.99) for step in (0, 5, 10)] == pytest.approx([0.99, 0.995, 1.0])
