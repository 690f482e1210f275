"""Weighted k nearest neighbours on frozen features: exact, in blocks, in memory that the blocks alone decide.

Shapes: Q queries of a chunk, M training images of a block, D feature width, N training images, K classes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluate import metrics
from evaluate.frozen.features import Features
from evaluate.frozen.nearest import by_products, lengths, on_device
from evaluate.frozen.probe_data import job_features
from evaluate.guards import EachOnce
from evaluate.protocols.knn import PROTOCOLS, KnnProtocol
from evaluate.task import Job
from pretrain.runtime.errors import InputError
from pretrain.runtime.progress import progress
from results.row import Metric

log = logging.getLogger("fastmoco")


def run(job: Job) -> list[Metric]:
    """kNN accuracy of a frozen backbone; the main metric is top-1 at the protocol's `k`.

    Raises:
        InputError: k exceeds the training set, or whatever `job_images` and `extract` refuse.
    """
    protocol = job.protocol
    assert isinstance(protocol, KnnProtocol)
    found = job_features(job)
    if found is None:
        return []
    train, test, classes = found.train, found.test, len(found.classes)
    ks = usable_ks(protocol, len(train))
    top5 = {k: np.zeros((len(test), min(5, classes)), dtype=np.int64) for k in ks}
    once = EachOnce(len(test))
    with progress("kNN", len(test)) as bar:
        for start, similarity, index in neighbours(train, test, max(ks), protocol, job.device):
            stop = start + len(similarity)
            labels = torch.from_numpy(train.labels)[index]
            for k in ks:
                scores = vote(similarity[:, :k], labels[:, :k], classes, protocol)
                top5[k][start:stop] = metrics.top_classes(scores.numpy())
            once.saw(np.arange(start, stop))
            bar.advance(stop - start)
    once.check()
    metrics.save_correct(job.out, top5[protocol.k][:, 0] == test.labels)
    rows = metrics.accuracies(
        top5[protocol.k], test.labels, classes, seed=job.seed, detail={"k": protocol.k}, main=found.metric
    )
    for k in ks[1:]:
        correct = top5[k][:, 0] == test.labels
        rows.append(metrics.share(f"top1/k{k}", correct, seed=job.seed, n=len(test), detail={"k": k}))
    return rows


def usable_ks(protocol: KnnProtocol, n_train: int) -> list[int]:
    """The k's to report, the main one first.

    Raises:
        InputError: the main k, or a k of a list that is not the preset's own, exceeds the training set.
    """
    preset = PROTOCOLS.get(protocol.name)
    own_list = preset is not None and preset.also_k == protocol.also_k
    too_large = [k for k in protocol.also_k if k > n_train]
    wrong = [protocol.k] if protocol.k > n_train else [] if own_list else too_large
    if wrong:
        raise InputError(f"k is {wrong[0]}, but there are only {n_train} training images: expected k <= {n_train}")
    if too_large:
        log.info("k=%s left out: only %d training images", ",".join(map(str, too_large)), n_train)
    return [protocol.k, *(k for k in protocol.also_k if k <= n_train and k != protocol.k)]


def neighbours(
    train: Features, queries: Features, k: int, protocol: KnnProtocol, device: torch.device
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(start, similarity (Q, k), index (Q, k)) for each chunk of queries in order, the most similar first.

    Exact: every pair is compared (see `evaluate.frozen.nearest`). A chunk of queries meets the training images block
    by block and keeps its k best, so memory is one chunk, one block and their (Q, M) similarities. Results are on the
    CPU.
    """
    options: dict[str, Any] = {"l2_normalize": protocol.l2_normalize, "train_block": protocol.train_block}
    if device.type != "cpu":
        yield from on_device(queries, train, k, device, query_chunk=protocol.query_chunk, **options)
        return
    for start, chunk in queries.blocks(protocol.query_chunk):
        query = chunk / np.maximum(lengths(chunk), 1e-12)[:, None] if protocol.l2_normalize else chunk  # (Q, D)
        best, index = by_products(query, train, k, **options)
        # The most similar first; of equals the earlier image.
        order = np.lexsort((index, -best), axis=1)
        yield (
            start,
            torch.from_numpy(np.take_along_axis(best, order, axis=1)),
            torch.from_numpy(np.take_along_axis(index, order, axis=1)),
        )


def vote(similarity: Tensor, labels: Tensor, classes: int, protocol: KnnProtocol) -> Tensor:
    """(Q, k) similarities and labels -> (Q, K) float64 scores: the sum of each class's votes.

    The weight is exp((s - s_max) / T): subtracting the largest similarity of the query scales all its votes alike and
    keeps the exponential finite for features that are not normalised.
    """
    weights = torch.ones_like(similarity, dtype=torch.float64)
    if protocol.vote == "softmax":
        weights = ((similarity - similarity[:, :1]).double() / protocol.temperature).exp()
    return torch.zeros(len(labels), classes, dtype=torch.float64).scatter_add_(1, labels, weights)
