"""Carving a held-out split and drawing a few labels: stratified, and the same for the same seed on every machine."""

from __future__ import annotations

import numpy as np

from pretrain.runtime.errors import InputError


def carve(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split indices into (train, held out); each class gives the same fraction, rounded, and both stay sorted.

    A class of two or more images is never held out whole, and one image of it is held out at least. Multi-label sets
    (bool (N, K)) are split without regard to their labels.

    Raises:
        InputError: the fraction is not between 0 and 1, or nothing would be held out.
    """
    if not 0 < fraction < 1:
        raise InputError(f"held-out fraction {fraction}: expected a number between 0 and 1")
    held_out: list[np.ndarray] = []
    for key, members in _groups(labels):
        count = round(fraction * len(members))
        if labels.ndim == 1 and len(members) > 1:
            count = min(max(count, 1), len(members) - 1)
        held_out.append(_shuffled(members, seed, key)[:count])
    chosen = np.sort(np.concatenate(held_out)) if held_out else np.array([], dtype=np.int64)
    if not len(chosen):
        raise InputError(f"a held-out fraction of {fraction} of {len(labels)} images leaves no image to hold out")
    return np.setdiff1d(np.arange(len(labels)), chosen, assume_unique=True), chosen


def few(labels: np.ndarray, per_class: int | None = None, fraction: float | None = None, seed: int = 0) -> np.ndarray:
    """Sorted indices of `per_class` images of each class, or of a `fraction` of each class (one at least).

    A smaller choice is part of a larger one with the same seed, as SimCLR's 1 % list is meant to be of the 10 % one.

    Raises:
        InputError: not exactly one of the two is given, it is out of range, or a class has too few images.
    """
    if (per_class is None) == (fraction is None):
        raise InputError("give exactly one of per_class and fraction")
    if fraction is not None and not 0 < fraction <= 1:
        raise InputError(f"fraction {fraction}: expected a number above 0 and at most 1")
    if per_class is not None and per_class < 1:
        raise InputError(f"per_class {per_class}: expected at least 1")
    if labels.ndim != 1:
        raise InputError("a few labels a class can be drawn from single-label sets only")
    chosen = []
    for key, members in _groups(labels):
        count = per_class if per_class is not None else max(1, round(float(fraction or 0) * len(members)))
        if count > len(members):
            raise InputError(f"class {key} has {len(members)} images, {count} a class were asked for")
        chosen.append(_shuffled(members, seed, key)[:count])
    return np.sort(np.concatenate(chosen))


def _groups(labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
    if labels.ndim == 1:
        return [(int(label), np.flatnonzero(labels == label)) for label in np.unique(labels)]
    return [(0, np.arange(len(labels)))]


def _shuffled(members: np.ndarray, seed: int, key: int) -> np.ndarray:
    # Sorting raw Philox words, not Generator.permutation: NumPy promises the stream of bit generators only.
    words = np.random.Philox(key=np.array([seed, key], dtype=np.uint64)).random_raw(len(members))
    return members[np.argsort(words, kind="stable")]
