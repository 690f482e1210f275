"""Images that stand twice: the same bytes, or nearly the same picture by a perceptual hash.

Shapes: N M images.
"""

from __future__ import annotations

from collections.abc import Iterator

import imagehash
import numpy as np
from PIL import Image

# Bits of 64 in which two hashes of one picture, saved at another size or quality, still differ (a picture's hash is 64
# bits of its lowest frequencies; of unrelated pictures about 32 differ).
NEAR_BITS = 4
_BANDS = (13, 13, 13, 13, 12)  # bits: of two hashes that differ in 4 bits, one of five bands is the same
_PLAIN = 3.0  # grey levels of standard deviation: what a flatter picture's hash says is noise
_AT_ONCE = 1 << 22  # pairs compared at a time


def perceptual_hash(pixels: np.ndarray) -> int | None:
    """pHash (64 bits) of uint8 (H, W, 3); None for a picture too plain to be told from others."""
    small = Image.fromarray(pixels).convert("L").resize((32, 32), Image.Resampling.BOX)
    if np.asarray(small).std() < _PLAIN:
        return None
    bits = imagehash.phash(small).hash.ravel()
    return int(np.packbits(bits).view(">u8")[0])


def near_pairs(hashes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """int64 (P, 2): places in `hashes` and in `others` (uint64 (N,), (M,)) whose hashes differ in few bits.

    Every place of `hashes` comes at most once, with the nearest of `others`.
    """
    unique, back = np.unique(others, return_index=True)
    best = np.full(len(hashes), NEAR_BITS + 1)
    nearest = np.full(len(hashes), -1)
    for left, right in _candidates(hashes, unique):
        bits = np.bitwise_count(hashes[left] ^ unique[right])
        order = np.argsort(bits, kind="stable")[::-1]  # the nearest is written last and stays
        order = order[bits[order] < best[left[order]]]
        best[left[order]], nearest[left[order]] = bits[order], right[order]
    found = np.flatnonzero(nearest >= 0)
    return np.stack([found, back[nearest[found]]], axis=1) if len(found) else np.zeros((0, 2), dtype=np.int64)


def near_inside(hashes: np.ndarray) -> np.ndarray:
    """int64 (P, 2): places of uint64 (N,) whose hash is near that of an earlier place, and that place; each once."""
    unique, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    partner = np.where(first[inverse] < np.arange(len(hashes)), first[inverse], -1)
    for left, right in _candidates(unique, unique):
        near = (first[right] < first[left]) & (np.bitwise_count(unique[left] ^ unique[right]) <= NEAR_BITS)
        partner[first[left[near]]] = first[right[near]]
    found = np.flatnonzero(partner >= 0)
    return np.stack([found, partner[found]], axis=1)


def _candidates(hashes: np.ndarray, others: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of places that have a band in common."""
    if not len(hashes) or not len(others):
        return
    shift = 0
    for width in _BANDS:
        mine, theirs = ((values >> np.uint64(shift)) & np.uint64((1 << width) - 1) for values in (hashes, others))
        shift += width
        order = np.argsort(theirs, kind="stable")
        begin = np.searchsorted(theirs[order], mine, "left")
        counts = np.searchsorted(theirs[order], mine, "right") - begin
        at = 0
        while at < len(mine):  # a part of `hashes` at a time, so that memory stays bounded
            upto = max(at + 1, at + int(np.searchsorted(np.cumsum(counts[at:]), _AT_ONCE)))
            part = counts[at:upto]
            left = np.repeat(np.arange(at, upto), part)
            inside = np.arange(len(left)) - np.repeat(np.cumsum(part) - part, part)
            yield left, order[np.repeat(begin[at:upto], part) + inside]
            at = upto
