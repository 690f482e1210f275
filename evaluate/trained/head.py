"""How the linear head of a protocol starts.

Shapes: D feature width, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from evaluate.protocols.training import TrainingProtocol


def linear_head(width: int, classes: int, protocol: TrainingProtocol, seed: int) -> nn.Linear:
    """`nn.Linear` (D -> K) with weights drawn from the seed as `protocol.head_init` says."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(width, classes)
    bound = 1 / math.sqrt(width)
    with torch.no_grad():
        if protocol.head_init == "torch":
            head.weight.uniform_(-bound, bound, generator=generator)
            head.bias.uniform_(-bound, bound, generator=generator)
            return head
        if protocol.head_init == "haiku":
            nn.init.trunc_normal_(head.weight, std=bound, a=-2 * bound, b=2 * bound, generator=generator)
        else:
            head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * protocol.head_init_std)
        head.bias.zero_()
    return head
