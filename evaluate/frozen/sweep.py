"""Linear evaluation on cached features: many lrs and weight decays in one pass, one chosen on a part of train."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence

import numpy as np
from safetensors.torch import save

from evaluate import metrics
from evaluate.frozen.features import Features
from evaluate.frozen.heads import Heads, epochs_for, predict, scaling_of, train_heads
from evaluate.frozen.probe_data import job_features, split_off
from evaluate.protocols.base import scaled_lr
from evaluate.protocols.linear import SweepProtocol
from evaluate.task import Job
from pretrain.runtime.errors import InputError, RunFailedError
from pretrain.runtime.files import write_bytes, write_json
from pretrain.runtime.interrupt import stop_request
from results.row import Metric

log = logging.getLogger("fastmoco")

REFERENCE_BATCH = 256


def run(job: Job) -> list[Metric]:
    """Accuracy of the linear classifier chosen on held-out training images; the test set is used once.

    Writes `sweep.json` (each pair's held-out score) and `head.safetensors` (`weight` (K, D), `bias` (K,)).

    Raises:
        InputError: what `job_features` refuses, several labels an image, or too few images to hold some out.
        RunFailedError: every pair diverged.
    """
    protocol = job.protocol
    assert isinstance(protocol, SweepProtocol)
    found = job_features(job)
    if found is None:
        return []
    train, test, classes, metric = found.train, found.test, len(found.classes), found.metric
    if train.labels.ndim == 2:
        raise InputError(f"'{job.data}' has several labels an image: use the tasks svm or logreg")
    if found.val is not None:
        fit, held_out, everything = train, found.val, train.joined(found.val)
    else:
        chosen_on = split_off(train, protocol.held_out, job.seed)
        fit, held_out = train.subset(np.flatnonzero(~chosen_on)), train.subset(np.flatnonzero(chosen_on))
        everything = train
    pairs = list(itertools.product(sorted(protocol.weight_decays, reverse=True), sorted(protocol.lrs)))
    lrs = [scaled_lr(base, "linear", REFERENCE_BATCH, protocol.batch_size) for _decay, base in pairs]
    log.info(
        "sweep: base lr %g..%g at batch %d -> lr %.4g..%.4g at batch %d (linear rule)",
        *(min(protocol.lrs), max(protocol.lrs), REFERENCE_BATCH, min(lrs), max(lrs), protocol.batch_size),
    )

    def trained(features: Features, which: Sequence[int]) -> Heads:
        return train_heads(
            features,
            classes,
            [lrs[i] for i in which],
            [pairs[i][0] for i in which],
            epochs=epochs_for(len(features), protocol.epochs, protocol.batch_size, protocol.min_steps),
            batch_size=protocol.batch_size,
            momentum=protocol.momentum,
            scaling=scaling_of(features, job.device) if protocol.standardize else None,
            seed=job.seed,
            device=job.device,
            stop=stop,
        )

    with stop_request() as stop:
        heads = trained(fit, range(len(pairs)))
        scores = held_out_scores(predict(heads, held_out, job.device), held_out.labels, metric)
        if np.isnan(scores).all():
            raise RunFailedError(f"all {len(pairs)} classifiers diverged: expected smaller lrs than {protocol.lrs}")
        # Of equal scores the first: the largest weight decay, then the smallest lr.
        best = int(np.nanargmax(scores))
        chosen = trained(everything, [best]) if protocol.refit else heads.one(best)
    decay, base = pairs[best]
    _say(protocol, metric, pairs, scores, best)
    tried = [
        {"base_lr": pair[1], "weight_decay": pair[0], "lr": lr, metric: None if np.isnan(score) else score}
        for pair, lr, score in zip(pairs, lrs, scores.tolist(), strict=True)
    ]
    write_json(job.out / "sweep.json", {"chosen": best, "held_out_images": len(held_out), "tried": tried})
    weight, bias = chosen.folded()
    write_bytes(job.out / "head.safetensors", save({"weight": weight.cpu(), "bias": bias.cpu()}))
    top5 = predict(chosen, test, job.device)[0]
    metrics.save_correct(job.out, top5[:, 0] == test.labels)
    detail = {"base_lr": base, "weight_decay": decay, "held_out_score": float(scores[best]), "refit": protocol.refit}
    return metrics.accuracies(
        top5, test.labels, classes, seed=job.seed, selection="held_out", detail=detail, main=metric
    )


def held_out_scores(top: np.ndarray, labels: np.ndarray, metric: str) -> np.ndarray:
    """(L, N, k) predictions -> (L,) scores in percent; NaN for a classifier that diverged."""
    scores = metrics.accuracy(top[:, :, 0] == labels, labels, metric)  # (L,)
    return np.where((top[:, :, 0] < 0).all(axis=1), np.nan, scores)


def _say(protocol: SweepProtocol, metric: str, pairs: list[tuple[float, float]], scores: np.ndarray, best: int) -> None:
    decay, base = pairs[best]
    log.info("sweep: base lr %g, weight decay %g chosen, held-out %s %.2f", base, decay, metric, scores[best])
    if len(protocol.lrs) > 1 and base in (min(protocol.lrs), max(protocol.lrs)):
        log.warning("sweep: the chosen lr %g is at the edge of the grid %s: widen it", base, sorted(protocol.lrs))
    if np.isnan(scores).any():
        log.info("sweep: %d of %d classifiers diverged", int(np.isnan(scores).sum()), len(scores))
