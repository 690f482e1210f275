"""One training step: keys of all views first, then the queries view by view, then the update.

Shapes: N images of this rank, M images of all ranks, C H W of a view, E width of the keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pretrain.fast_moco import FastMoCo
from pretrain.loss import spread
from pretrain.runtime.distributed import ALONE, Ranks
from pretrain.runtime.errors import InputError


class StepFigures(NamedTuple):
    """What is watched of a step, as scalar tensors on the device (reading one waits for it).

    Attributes:
        loss: of this rank's images.
        positive, negative: mean cosine similarity of queries with their keys and with all others.
        spread: of the keys; about 1 when healthy, 0 when collapsed (`pretrain.loss.spread`).
    """

    loss: Tensor
    positive: Tensor
    negative: Tensor
    spread: Tensor


def accumulate_gradients(
    model: nn.Module,
    views: Sequence[Tensor],
    *,
    momentum: float,
    micro_batch_size: int | None = None,
    precision: str = "float32",
    ranks: Ranks = ALONE,
) -> StepFigures:
    """Update the momentum encoder, then add the loss's gradient to every parameter's `.grad`.

    The loss is the mean over all terms: two views times G combinations, and, with a third view, two more terms, which
    compare it whole with the keys of the first two. The query views pass one after the other, each with a backward of
    its own, so that only one view's activations are held at a time. This is exact: batch-norm statistics are per view
    anyway, and gradients add up.

    With `micro_batch_size` a view passes in parts. Keys were computed for the whole batch before, so the negatives are
    those of the whole batch; only batch-norm statistics are per part.

    Args:
        model: FastMoCo, bare, compiled, or in DistributedDataParallel.
        views: two or three of (N, C, H, W).
        momentum: of the momentum encoder at this step.
        precision: "float32" or "bf16" (autocast of encoder and heads; similarities and loss stay in float32).
        ranks: where this process stands.

    Raises:
        InputError: micro_batch_size does not divide N.
    """
    core = unwrap(model)
    N = views[0].shape[0]
    part = micro_batch_size or N
    if N % part:
        raise InputError(f"micro_batch_size is {part}, expected a divisor of the {N} images of a rank's batch")
    low = torch.autocast(views[0].device.type, torch.bfloat16) if precision == "bf16" else nullcontext()
    with low:
        core.update_momentum_encoder(momentum)
        keys = torch.stack([core.keys(view) for view in views[:2]])  # (2, M, E)
    G = len(core.mixing)
    terms = 2 * G + 2 * (len(views) - 2)
    # Query view, the keys it meets, its share of all terms, whether it stays whole.
    passes: list[tuple[Tensor, Tensor, float, bool]] = [
        (views[0], keys[1:], G / terms, False),
        (views[1], keys[:1], G / terms, False),
    ]
    passes += [(view, keys, 2 / terms, True) for view in views[2:]]
    figures = []
    for number, (view, others, share, whole) in enumerate(passes):
        for start in range(0, N, part):
            last = number == len(passes) - 1 and start + part == N
            hold = model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext()
            with hold:
                with low:
                    out = model(view[start : start + part], others, ranks.rank * N + start, whole)
                weight = share * part / N
                (out.loss * weight).backward()
            figures.append(torch.stack([value.detach() for value in out]) * weight)
    loss, positive, negative = torch.stack(figures).sum(0)
    return StepFigures(loss, positive, negative, spread(keys[0]))


def unwrap(model: nn.Module) -> FastMoCo:
    """The FastMoCo inside DistributedDataParallel and torch.compile."""
    if isinstance(model, DistributedDataParallel):
        model = model.module
    model = getattr(model, "_orig_mod", model)
    assert isinstance(model, FastMoCo)
    return model


def bf16_is_slow(device: torch.device) -> bool:
    """Whether `precision: bf16` costs time here in place of saving it: an x86 processor without AVX-512.

    oneDNN has no bfloat16 kernels for these. A step of CIFAR ResNet-20 with a batch of 64 took 9.5 s on such a
    processor, where float32 takes 0.97 s.
    """
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2"
