"""Optimizers, parameter groups, and schedules as functions of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer

from pretrain.recipe import Recipe

if TYPE_CHECKING:
    from pretrain.fast_moco import FastMoCo


class LARS(Optimizer):
    """SGD with momentum whose step on each matrix is scaled by trust_coefficient * |w| / |g + wd*w| (You et al. 2017).

    The local rate enters before the momentum, as in MoCo v3 (facebookresearch/moco-v3 `moco/optimizer.py`) and
    SimCLR. Vectors and scalars (biases, norm scales) are neither adapted nor decayed, unless `adapt_1d`.

    Args:
        lr: may be changed between steps in `param_groups`.
        momentum: of the update.
        weight_decay: added to the gradient of matrices as wd * w.
        trust_coefficient: eta of the paper, 0.001 in all recipes of the field.
        adapt_1d: treat 1-d parameters like matrices (apex's LARC and the public Fast-MoCo probe do).
    """

    def __init__(
        self,
        params: Any,
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        adapt_1d: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "adapt_1d": adapt_1d,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        assert closure is None, "LARS takes no closure"
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            updates = [self._scaled(p, p.grad, group) for p in parameters]
            if not parameters:
                continue
            buffers = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in parameters]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, updates)
            torch._foreach_add_(parameters, buffers, alpha=-group["lr"])

    @staticmethod
    def _scaled(parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> Tensor:
        if parameter.ndim <= 1 and not group["adapt_1d"]:
            return gradient
        gradient = gradient.add(parameter, alpha=group["weight_decay"])
        size, length = parameter.norm(), gradient.norm()
        local = group["trust_coefficient"] * size / length
        # A parameter or a gradient of length 0 has no direction to scale: it takes the plain step.
        return gradient * torch.where((size > 0) & (length > 0), local, torch.ones_like(local))


def warmup_cosine(step: int, total: int, *, warmup: int, base_lr: float, start_lr: float, end_lr: float = 0.0) -> float:
    """The lr at `step` (from 0) of `total`: linear from start_lr over `warmup` steps, then half a cosine to end_lr."""
    if step < warmup:
        return start_lr + (base_lr - start_lr) * step / warmup
    return end_lr + (base_lr - end_lr) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))


def cosine_momentum(step: int, total: int, start: float) -> float:
    """The momentum of the key encoder at `step` of `total`: half a cosine from `start` to 1 (MoCo v3, BYOL)."""
    return 1.0 - (1.0 - start) * 0.5 * (1 + math.cos(math.pi * step / total))


def split_by_decay(named: Iterable[tuple[str, Tensor]], *, decay_1d: bool) -> tuple[list[Tensor], list[Tensor]]:
    """Parameters with weight decay and without: 1-d ones (biases, norm scales) go to the second unless `decay_1d`."""
    with_decay: list[Tensor] = []
    without: list[Tensor] = []
    for _, parameter in named:
        (with_decay if decay_1d or parameter.ndim > 1 else without).append(parameter)
    return with_decay, without


def build_optimizer(recipe: Recipe, model: FastMoCo) -> torch.optim.Optimizer:
    """The recipe's optimizer over encoder groups, then predictor groups, each with and without weight decay."""
    encoder = [*model.backbone.named_parameters(), *model.projector.named_parameters()]
    groups: list[dict[str, Any]] = []
    for role, named in (("encoder", encoder), ("predictor", [*model.predictor.named_parameters()])):
        with_decay, without = split_by_decay(named, decay_1d=recipe.decay_1d)
        for parameters, decay in ((with_decay, recipe.weight_decay), (without, 0.0)):
            if parameters:
                groups.append({"params": parameters, "weight_decay": decay, "role": role})
    if recipe.optimizer == "lars":
        return LARS(groups, lr=recipe.lr, momentum=recipe.sgd_momentum)
    # One pass over the weights, on the CPU as on GPUs, and no copies of the gradients.
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.sgd_momentum, fused=True)


def learning_rates(recipe: Recipe, step: int, total_steps: int) -> dict[str, float]:
    """The lr of the "encoder" and the "predictor" groups at `step` (from 0)."""
    warmup = round(recipe.warmup_epochs * total_steps / recipe.epochs)
    if recipe.lr_counts_from == 0:
        lr = warmup_cosine(step, total_steps, warmup=warmup, base_lr=recipe.lr, start_lr=recipe.start_lr)
    elif step + 1 < warmup:  # the peak is the last of the `warmup` steps, and the last of all has the lr 0
        lr = recipe.start_lr + (recipe.lr - recipe.start_lr) * step / (warmup - 1)
    else:
        lr = recipe.lr * 0.5 * (1 + math.cos(math.pi * (step + 1 - warmup) / (total_steps - warmup)))
    return {"encoder": lr, "predictor": recipe.lr if recipe.predictor_lr == "constant" else lr}


def load_optimizer_state(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load what `state_dict` gave, each tensor in the memory layout of its parameter.

    Fused kernels read raw memory, and on the CPU nothing checks that a momentum lies as its weights do.
    """
    optimizer.load_state_dict(state)
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
