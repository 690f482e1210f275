"""Drawn features that stand for those of a backbone: noisy clusters, one a class."""

from __future__ import annotations

import numpy as np

from evaluate.frozen.features import Features

CLASSES = 100


def synthetic(n: int, width: int, seed: int, signal: float = 0.25) -> Features:
    """Noisy clusters, one a class, non-negative as pooled ReLU features are; `signal` is their distance in noises."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(CLASSES, width)).astype(np.float32)
    labels = rng.integers(0, CLASSES, n)
    values = np.maximum(signal * centres[labels] + rng.standard_normal((n, width), dtype=np.float32), 0)
    return Features(values, np.arange(n), labels)
