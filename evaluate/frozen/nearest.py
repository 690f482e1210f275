"""The k most similar training images of each query, exactly, block by block, on the CPU or on a device.

Shapes: Q queries of a chunk, M training images of a block, D feature width, N training images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

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


# Queries that stay on the device while the training images pass once: 0.5 GB at a width of 2048.
QUERIES_ON_DEVICE = 65_536


def on_device(
    queries: Features,
    train: Features,
    k: int,
    device: torch.device,
    *,
    l2_normalize: bool,
    query_chunk: int,
    train_block: int,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(start, similarity (Q, k), index (Q, k)) of each chunk of queries in order, on the CPU, the most similar first.

    The training images cross to the device once for every `QUERIES_ON_DEVICE` queries, which meet them chunk by chunk.
    The host waits for the device once for all of these.
    """
    for first in range(0, len(queries), QUERIES_ON_DEVICE):
        held = queries.subset(np.arange(first, min(first + QUERIES_ON_DEVICE, len(queries))))
        chunks = [torch.from_numpy(chunk).to(device) for _start, chunk in held.blocks(query_chunk)]
        if l2_normalize:
            chunks = [chunk / chunk.norm(dim=1, keepdim=True).clamp_min(1e-12) for chunk in chunks]
        best = [chunk.new_empty(len(chunk), 0) for chunk in chunks]
        index = [torch.empty(len(chunk), 0, dtype=torch.int64, device=device) for chunk in chunks]
        for start, block in train.views(train_block):
            keys = torch.from_numpy(np.array(block)).to(device, non_blocking=True)
            scale = 1 / keys.norm(dim=1).clamp_min(1e-12) if l2_normalize else None
            for number, chunk in enumerate(chunks):
                similarity = chunk @ keys.T
                if scale is not None:
                    similarity *= scale
                found, at = similarity.topk(min(k, len(keys)), dim=1)
                joined = torch.cat([best[number], found], dim=1)
                best[number], order = joined.topk(min(k, joined.shape[1]), dim=1)
                index[number] = torch.cat([index[number], at + start], dim=1).gather(1, order)
        start = first
        found_of_chunks = (torch.cat(parts).cpu().split(query_chunk) for parts in (best, index))
        for similarity, rows in zip(*found_of_chunks, strict=True):
            # Of equals the earlier image, as on the CPU.
            order = torch.from_numpy(np.lexsort((rows.numpy(), -similarity.numpy()), axis=1))
            yield start, similarity.gather(1, order), rows.gather(1, order)
            start += len(rows)
