"""The k most similar training images of each query, exactly, block by block on the CPU.

Shapes: Q queries of a chunk, M training images of a block, D feature width, N training images.
"""

from __future__ import annotations

import numpy as np

from evaluate.frozen.features import Features

Found = tuple[np.ndarray, np.ndarray]  # similarity (Q, k) float32 and index (Q, k) int64, in no order


def largest(values: np.ndarray, k: int) -> Found:
    """The k largest of each row, in no order, and where they stand; all of a shorter row.

    numpy's partition takes a third of the time of torch's topk on a CPU.
    """
    M = values.shape[1]
    if k >= M:
        return values.copy(), np.broadcast_to(np.arange(M), values.shape)
    at = np.argpartition(values, M - k, axis=1)[:, M - k :]
    return np.take_along_axis(values, at, axis=1), at


def lengths(rows: np.ndarray) -> np.ndarray:
    """(N, D) -> (N,), the Euclidean length of each row."""
    return np.sqrt(np.einsum("nd,nd->n", rows, rows))


def by_products(query: np.ndarray, train: Features, k: int, *, l2_normalize: bool, train_block: int) -> Found:
    """Every pair in float32: a chunk of queries (Q, D) meets the training images block by block and keeps its k best.

    Once k are found, only what exceeds a query's k-th best is picked from a block, so that choosing costs one
    comparison a pair.
    """
    best = np.empty((len(query), 0), dtype=np.float32)
    index = np.empty((len(query), 0), dtype=np.int64)
    buffer = np.empty(len(query) * min(train_block, len(train)), dtype=np.float32)
    for start, block in train.views(train_block):  # (M, D)
        similarity = np.matmul(query, block.T, out=buffer[: len(query) * len(block)].reshape(len(query), -1))
        if l2_normalize:
            # Dividing the similarities and not the features: the block stays a view of the mapped file.
            similarity *= 1 / np.maximum(lengths(block), 1e-12)
        found, at = _above(similarity, best.min(axis=1), k) if best.shape[1] == k else largest(similarity, k)
        best, order = largest(np.concatenate([best, found], axis=1), k)
        index = np.take_along_axis(np.concatenate([index, at + start], axis=1), order, axis=1)
    return best, index


def _above(values: np.ndarray, threshold: np.ndarray, k: int) -> Found:
    """What exceeds its row's threshold (Q,), padded with -inf to the longest row; at most the k largest."""
    Q, M = values.shape
    flat = np.flatnonzero(values > threshold[:, None])
    rows = flat // M
    counts = np.bincount(rows, minlength=Q)
    width = int(counts.max(initial=0))
    if width > k:
        return largest(values, k)
    found = np.full((Q, width), -np.inf, dtype=np.float32)
    at = np.zeros((Q, width), dtype=np.int64)
    place = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    found[rows, place] = values.ravel()[flat]
    at[rows, place] = flat % M
    return found, at
