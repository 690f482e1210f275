"""Linear classifiers on features, many at a time: one pass over the data trains them all.

Shapes: B batch, D feature width, K classes, L classifiers, N samples.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evaluate.frozen.features import Features
from evaluate.frozen.gemm import matmul
from evaluate.metrics import top_classes
from pretrain.runtime.interrupt import StopRequest
from pretrain.runtime.progress import progress

log = logging.getLogger("fastmoco")

BLOCK = 4096


@dataclass(frozen=True)
class Scaling:
    """Shift and scale of each feature: x -> (x - mean) * factor. Both (D,) float32."""

    mean: Tensor
    factor: Tensor

    def apply_(self, values: Tensor) -> Tensor:
        """(B, D), in place."""
        return values.sub_(self.mean).mul_(self.factor)


@dataclass(frozen=True)
class Heads:
    """L trained classifiers: `weight` (D, L, K), `bias` (L, K), for features scaled by `scaling` (None: unscaled)."""

    weight: Tensor
    bias: Tensor
    scaling: Scaling | None

    def __len__(self) -> int:
        return self.weight.shape[1]

    def one(self, which: int) -> Heads:
        """Classifier `which` alone."""
        return Heads(self.weight[:, [which]].contiguous(), self.bias[[which]].contiguous(), self.scaling)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (K, D) and bias (K,) of a single classifier for unscaled features, as `nn.Linear` holds them."""
        assert len(self) == 1
        weight, bias = self.weight[:, 0].T.double(), self.bias[0].double()
        if self.scaling is not None:
            weight = weight * self.scaling.factor.double()
            bias = bias - weight @ self.scaling.mean.double()
        return weight.float().contiguous(), bias.float()


def scaling_of(features: Features, device: torch.device) -> Scaling:
    """Mean and 1/standard deviation of every feature, in float64 over blocks; a constant feature gets factor 0.

    0 and not 1: whatever a feature that is constant over train does on test, the classifier has learnt nothing of it.
    """
    total = np.zeros(features.width)
    squares = np.zeros(features.width)
    pivot = features.take(np.array([0]))[0].astype(np.float64)  # shifting first keeps the variance accurate
    for _start, block in features.blocks(BLOCK):
        shifted = block - pivot
        total += shifted.sum(axis=0)
        squares += np.einsum("nd,nd->d", shifted, shifted)
    mean = total / len(features)
    deviation = np.sqrt(np.maximum(squares / len(features) - mean**2, 0.0))
    # Rounding alone gives a constant feature a deviation of about 1e-8 of its size.
    varies = deviation > 1e-6 * np.maximum(np.abs(pivot + mean), 1e-6)
    factor = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=varies)
    as_tensor = [torch.from_numpy(values.astype(np.float32)).to(device) for values in (pivot + mean, factor)]
    return Scaling(as_tensor[0], as_tensor[1])


def epochs_for(n: int, epochs: int, batch_size: int, min_steps: int) -> int:
    """`epochs`, or as many as it takes to make `min_steps` steps."""
    steps = math.ceil(n / batch_size)
    return max(epochs, math.ceil(min_steps / steps))


def train_heads(
    features: Features,
    classes: int,
    lrs: list[float],
    weight_decays: list[float],
    *,
    epochs: int,
    batch_size: int,
    momentum: float,
    scaling: Scaling | None,
    seed: int,
    device: torch.device,
    stop: StopRequest | None = None,
) -> Heads:
    """Train L classifiers with SGD, cosine to 0 step by step, all on the same batches and from the same start.

    The L classifiers stand side by side in one (D, L*K) matrix, so that a step is two matrix products whatever L is:
    the features are read, scaled and multiplied once. Weight decay is added to the gradient before momentum, as
    `torch.optim.SGD` does; the bias is decayed too, as there.

    Args:
        lrs, weight_decays: length L each; lrs are the optimizer's.

    Raises:
        Interrupted: `stop` asked; nothing is saved, since the features are cached and the rest is quick.
    """
    L, N, D = len(lrs), len(features), features.width
    assert len(weight_decays) == L
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]))
    start = torch.randn(D, classes, generator=generator) * 0.01
    weight = start.repeat(1, L).to(device)  # (D, L*K)
    bias = torch.zeros(L * classes, device=device)
    velocity, bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)
    gradient = torch.empty_like(weight)
    lr_of_column = torch.tensor(lrs, dtype=torch.float32, device=device).repeat_interleave(classes)
    decay_of_column = torch.tensor(weight_decays, dtype=torch.float32, device=device).repeat_interleave(classes)
    decays = any(weight_decays)
    labels = torch.from_numpy(features.labels)
    steps_per_epoch = math.ceil(N / batch_size)
    steps, step = epochs * steps_per_epoch, 0
    logits_buffer = torch.empty(min(batch_size, N) * L * classes, device=device)
    with progress(f"{L} linear classifiers", epochs, unit="epochs") as bar:
        for epoch in range(epochs):
            order = np.random.default_rng([seed, epoch]).permutation(N)
            for begin in range(0, N, batch_size):
                if stop is not None and stop.requested:
                    raise stop.leave("run the same command again; the features are cached")
                # Sorted: rows of a memory-mapped file are then read forwards, and a batch is a set anyway.
                at = np.sort(order[begin : begin + batch_size])
                x = torch.from_numpy(features.take(at)).to(device)  # (B, D)
                y = labels[torch.from_numpy(at)].to(device)
                if scaling is not None:
                    scaling.apply_(x)
                B = len(x)
                logits = matmul(x, weight, out=logits_buffer[: B * L * classes].view(B, -1)).add_(bias)
                slope = _softmax_(logits.view(B, L, classes))  # dLoss/dlogits, once the label's 1 is taken off
                slope[torch.arange(B, device=device), :, y] -= 1
                slope = slope.div_(B).view(B, L * classes)
                matmul(x.T, slope, out=gradient)
                bias_gradient = slope.sum(dim=0)
                if decays:
                    gradient.addcmul_(weight, decay_of_column)
                    bias_gradient.addcmul_(bias, decay_of_column)
                rate = lr_of_column * (0.5 * (1 + math.cos(math.pi * step / steps)))
                weight.addcmul_(velocity.mul_(momentum).add_(gradient), rate, value=-1)
                bias.addcmul_(bias_velocity.mul_(momentum).add_(bias_gradient), rate, value=-1)
                step += 1
            bar.advance()
    return Heads(weight.view(D, L, classes), bias.view(L, classes), scaling)


def _softmax_(logits: Tensor) -> Tensor:
    """Softmax over the last dimension, in place: for ten classes a seventh of the time of `torch.softmax` on a CPU."""
    logits.sub_(logits.amax(dim=-1, keepdim=True)).exp_()
    return logits.div_(logits.sum(dim=-1, keepdim=True))


def predict(heads: Heads, features: Features, device: torch.device) -> np.ndarray:
    """(L, N, min(5, K)) int64: the likeliest classes of each image by each classifier; -1 where one has diverged."""
    D, L, K = heads.weight.shape
    top = np.empty((L, len(features), min(5, K)), dtype=np.int64)
    flat = heads.weight.reshape(D, L * K).to(device)
    for start, block in features.blocks(BLOCK):
        x = torch.from_numpy(block).to(device)
        if heads.scaling is not None:
            heads.scaling.apply_(x)
        logits = matmul(x, flat).add_(heads.bias.to(device).view(-1)).view(len(x), L, K).cpu().numpy()
        for which in range(L):
            top[which, start : start + len(x)] = top_classes(logits[:, which])
    diverged = ~(torch.isfinite(heads.weight).all(dim=2).all(dim=0) & torch.isfinite(heads.bias).all(dim=1))
    top[diverged.cpu().numpy()] = -1
    return top
