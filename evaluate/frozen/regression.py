"""Logistic regression by L-BFGS on features that stay on the disk: the objective block by block.

Shapes: D feature width, K classes, N images, B images of a block.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

from evaluate.frozen.features import Features

BLOCK = 8192


@dataclass(frozen=True)
class Part:
    """Features and which of their images count: `counts` (N,) bool.

    Held-out images are masked, not cut out, so that blocks stay views of the mapped file.
    """

    features: Features
    counts: np.ndarray


@dataclass(frozen=True)
class Regression:
    """Weights (D, K) and bias (K,) in float64, for features as they are, and how many iterations they took."""

    weight: np.ndarray
    bias: np.ndarray
    iterations: int

    def scores(self, features: Features) -> np.ndarray:
        """(N, K) float32 logits."""
        weight, bias = self.weight.astype(np.float32), self.bias.astype(np.float32)
        return np.concatenate([block @ weight + bias for _start, block in features.views(BLOCK)])


class Objective:
    """Mean loss + |W|^2 / (2 C N), that is scikit-learn's objective divided by C N, in better coordinates.

    L-BFGS moves V = W * deviation and a = b + mean @ W: the same function of standardised features, but with the
    penalty on W itself. The minimum is the same, and it takes fewer steps to reach.
    """

    def __init__(self, parts: list[Part], classes: int) -> None:
        self.parts, self.K = parts, classes
        self.D = parts[0].features.width
        self.n = int(sum(part.counts.sum() for part in parts))
        self.multi_label = parts[0].features.labels.ndim == 2
        total, squares = np.zeros(self.D), np.zeros(self.D)
        for block, counts, _labels in self._blocks():
            block = block[counts].astype(np.float64)
            total += block.sum(axis=0)
            squares += np.einsum("nd,nd->d", block, block)
        self.mean = total / self.n
        variance = squares / self.n - self.mean**2
        # A feature that hardly varies would get a huge step: it keeps its own scale.
        self.deviation = np.sqrt(np.where(variance > 1e-8 * (self.mean**2 + 1e-12), variance, 1.0))

    def __call__(self, flat: np.ndarray, C: float) -> tuple[float, np.ndarray]:
        """Value and gradient at V (D, K) and a (K,), flattened together."""
        weight, bias = self.unpack(flat)
        weight32, bias32 = weight.astype(np.float32), bias.astype(np.float32)
        loss, slope_sum = 0.0, np.zeros(self.K)
        gradient = np.zeros((self.D, self.K))
        for block, counts, labels in self._blocks():
            logits = block @ weight32 + bias32  # (B, K)
            part, slope = self._loss(logits, labels, counts)
            loss += part
            slope_sum += slope.sum(axis=0, dtype=np.float64)
            gradient += block.T @ slope
        penalty = 1.0 / (C * self.n)
        value = loss / self.n + 0.5 * penalty * float(np.vdot(weight, weight))
        by_weight = (gradient - np.outer(self.mean, slope_sum)) / self.n + penalty * weight
        return value, np.concatenate([(by_weight / self.deviation[:, None]).ravel(), slope_sum / self.n])

    def unpack(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """W (D, K) and b (K,) from V and a."""
        weight = flat[: self.D * self.K].reshape(self.D, self.K) / self.deviation[:, None]
        return weight, flat[self.D * self.K :] - self.mean @ weight

    def _loss(self, logits: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> tuple[float, np.ndarray]:
        """Sum of the losses of the images that count, and its slope in the logits (B, K) float32."""
        if self.multi_label:
            losses = (np.logaddexp(0, logits) - logits * labels).sum(axis=1)
            slope = expit(logits) - labels
        else:
            rows = np.arange(len(logits))
            normalizer = logsumexp(logits, axis=1)
            losses = normalizer - logits[rows, labels]
            slope = np.exp(logits - normalizer[:, None])
            slope[rows, labels] -= 1
        slope[~counts] = 0
        return float(losses[counts].sum(dtype=np.float64)), slope.astype(np.float32, copy=False)

    def _blocks(self):
        for part in self.parts:
            for start, block in part.features.views(BLOCK):
                stop = start + len(block)
                yield block, part.counts[start:stop], part.features.labels[start:stop]


def fit(
    objective: Objective, C: float, *, start: np.ndarray | None, max_iterations: int, tolerance: float
) -> tuple[Regression, np.ndarray]:
    """The minimum for one C, and the point (V, a) to start the next C from."""
    size = objective.D * objective.K + objective.K
    result = minimize(
        objective,
        np.zeros(size) if start is None else start,
        args=(C,),
        jac=True,
        method="L-BFGS-B",
        # ftol: a float32 forward pass resolves the mean loss to about 1e-7 of itself.
        options={
            "maxiter": max_iterations,
            "maxfun": 2 * max_iterations,
            "gtol": tolerance,
            "ftol": 1e-9,
            "maxcor": 10,
        },
    )
    weight, bias = objective.unpack(result.x)
    return Regression(weight, bias, int(result.nit)), result.x
