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
from evaluate.frozen.probe_data import JobFeatures, job_features
from evaluate.guards import EachOnce
from evaluate.protocols.knn import PROTOCOLS, KnnProtocol
from evaluate.task import Job
from pretrain.runtime.errors import InputError
from pretrain.runtime.progress import progress
from results.row import Metric

log = logging.getLogger("fastmoco")


def run(job: Job) -> list[Metric]:
    """kNN accuracy of a frozen backbone at the protocol's `k`; of a set with several labels an image, mAP.

    With fewer than five neighbours, `top5` counts only classes that one of them is of (DINO's eval_knn.py counts the
    first k places).

    Raises:
        InputError: k exceeds the training set, or whatever `job_images` and `extract` refuse.
    """
    protocol = job.protocol
    assert isinstance(protocol, KnnProtocol)
    found = job_features(job)
    if found is None:
        return []
    train, test, classes = found.train, found.test, len(found.classes)
    if train.labels.ndim == 2:
        return _several_labels(job, found)
    ks = usable_ks(protocol, len(train))
    top5 = {k: np.zeros((len(test), min(5, classes)), dtype=np.int64) for k in ks}
    once = EachOnce(len(test))
    with progress("kNN", len(test)) as bar:
        for start, similarity, index in neighbours(train, test, max(ks), protocol, job.device):
            stop = start + len(similarity)
            labels = torch.from_numpy(train.labels)[index]
            for k in ks:
                scores = vote(similarity[:, :k], labels[:, :k], classes, protocol)
                best = metrics.top_classes(scores.numpy())
                if k < 5:  # a class that no neighbour is of is not among the likeliest, though there is room for it
                    voted = torch.zeros_like(scores).scatter_(1, labels[:, :k], 1.0).numpy()
                    best[np.take_along_axis(voted, best, axis=1) == 0] = -1
                top5[k][start:stop] = best
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


def _several_labels(job: Job, found: JobFeatures) -> list[Metric]:
    """mAP where an image may be of several classes: a class's score is the weighted mean of the neighbours' labels."""
    protocol = job.protocol
    assert isinstance(protocol, KnnProtocol)
    train, test = found.train, found.test
    ks = usable_ks(protocol, len(train))
    scores = {k: np.zeros(test.labels.shape) for k in ks}
    labels = torch.from_numpy(train.labels.astype(np.float64))
    once = EachOnce(len(test))
    with progress("kNN", len(test)) as bar:
        for start, similarity, index in neighbours(train, test, max(ks), protocol, job.device):
            stop = start + len(similarity)
            for k in ks:
                weights = weights_of(similarity[:, :k], protocol)
                weights = weights / weights.sum(dim=1, keepdim=True)
                for place in range(k):
                    scores[k][start:stop] += (weights[:, place, None] * labels[index[:, place]]).numpy()
            once.saw(np.arange(start, stop))
            bar.advance(stop - start)
    once.check()
    rows = []
    for k in ks:
        measured = metrics.mean_average_precision(
            scores[k],
            test.labels,
            test.ignored,
            found.classes,
            seed=job.seed,
            draws=200 if k == protocol.k else 1,
            detail={"k": k},
        )
        rows += (
            measured
            if k == protocol.k
            else [measured[0].model_copy(update={"name": f"{measured[0].name}/k{k}", "ci95": None})]
        )
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


def weights_of(similarity: Tensor, protocol: KnnProtocol) -> Tensor:
    """(Q, k) similarities, the largest first -> (Q, k) float64 weights of the neighbours; see `vote`."""
    if protocol.vote == "uniform":
        return torch.ones_like(similarity, dtype=torch.float64)
    return ((similarity - similarity[:, :1]).double() / protocol.temperature).exp()


def vote(similarity: Tensor, labels: Tensor, classes: int, protocol: KnnProtocol) -> Tensor:
    """(Q, k) similarities and labels -> (Q, K) float64 scores: the sum of each class's votes.

    The weight is exp((s - s_max) / T): subtracting the largest similarity of the query scales all its votes alike and
    keeps the exponential finite for features that are not normalised.
    """
    weights = weights_of(similarity, protocol)
    return torch.zeros(len(labels), classes, dtype=torch.float64).scatter_add_(1, labels, weights)
