"""The two other forms of LARS that linear protocols use; `pretrain.optim.LARS` is the usual one.

All forms adapt every tensor, the head's bias too, and scale by trust * |w| / |g + wd*w|. They differ in what the
momentum buffer v holds (l: the local rate of this step, lr: the schedule's):

    before_momentum   v = m*v + l*g         w -= lr*v      apex's LARC (SimSiam)
    after_momentum    v = m*v + g           w -= lr*l*v    Fast-MoCo's "PyTorch" form
    lr_in_momentum    v = m*v + lr*l*g      w -= v         mmselfsup, the form of You et al. 2017
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pretrain.optim import LARS


class LarsAfterMomentum(LARS):
    """The local rate, of this step's weights and gradient, multiplies the momentum buffer and is not part of it."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for parameter, gradient, rate, group in _local_rates(self):
            buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
            buffer.mul_(group["momentum"]).add_(gradient)
            parameter.sub_(buffer * (rate * group["lr"]))


class LarsLrInMomentum(LARS):
    """The momentum buffer holds whole updates, lr included: when lr falls, what is under way keeps the old one."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for parameter, gradient, rate, group in _local_rates(self):
            buffer = self.state[parameter].setdefault("momentum_buffer", torch.zeros_like(parameter))
            buffer.mul_(group["momentum"]).add_(gradient * (rate * group["lr"]))
            parameter.sub_(buffer)


def _local_rates(optimizer: LARS):
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            gradient: Tensor = parameter.grad.add(parameter, alpha=group["weight_decay"])
            size, length = parameter.norm(), gradient.norm()
            rate = group["trust_coefficient"] * size / length
            # A bias that starts at 0 has no size to scale by: it takes the plain step.
            yield parameter, gradient, torch.where((size > 0) & (length > 0), rate, torch.ones_like(rate)), group
