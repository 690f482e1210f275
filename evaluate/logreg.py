"""Logistic regression on frozen features, its regularisation chosen on held-out images."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from evaluate import metrics
from evaluate.frozen.features import Features
from evaluate.frozen.probe_data import JobFeatures, job_features, split_off
from evaluate.frozen.regression import Objective, Part, fit
from evaluate.protocols.logreg import LogregProtocol
from evaluate.task import Job
from pretrain.runtime.files import write_bytes, write_json
from pretrain.runtime.interrupt import stop_request
from pretrain.runtime.progress import progress
from results.row import Metric

log = logging.getLogger("fastmoco")


def run(job: Job) -> list[Metric]:
    """Accuracy (or, of several labels an image, mAP) of the classifier chosen on held-out images.

    Writes `logreg.json` (every C's held-out score and iterations) and `head.safetensors` (`weight`, `bias`).

    Raises:
        InputError: what `job_features` refuses, or too few images to hold some out.
    """
    protocol = job.protocol
    assert isinstance(protocol, LogregProtocol)
    found = job_features(job)
    if found is None:
        return []
    test, classes, metric = found.test, len(found.classes), found.metric
    fitted, judged, held_out = _split(found, protocol, job.seed)
    objective = Objective(fitted, classes)
    tried: list[dict[str, Any]] = []
    points: list[np.ndarray] = []
    with progress("logistic regression", protocol.grid_size, unit="values of C") as bar, stop_request() as stop:
        for C in protocol.grid():
            if stop.requested:
                raise stop.leave("run the same command again; the features are cached")
            regression, point = fit(
                objective,
                C,
                start=points[-1] if points else None,
                max_iterations=protocol.max_iterations,
                tolerance=protocol.tolerance,
            )
            score = held_out_score(regression.scores(judged), judged, held_out, metric)
            tried.append({"C": C, metric: score, "iterations": regression.iterations})
            points.append(point)
            bar.advance(score=score)
    best = int(np.argmax([one[metric] for one in tried]))  # of equals the first: the smallest C
    C = tried[best]["C"]
    log.info("logreg: C %.4g chosen of %d, held-out %s %.2f", C, len(tried), metric, tried[best][metric])
    # Retrained on all of train (and val), from the chosen solution; the coordinates belong to the objective, so the
    # start is only near, which is all a start needs to be.
    everything = [Part(part.features, np.ones(len(part.features), dtype=bool)) for part in fitted]
    if judged is not found.train:
        everything.append(Part(judged, np.ones(len(judged), dtype=bool)))
    final, _point = fit(
        Objective(everything, classes),
        C,
        start=points[best],
        max_iterations=protocol.max_iterations,
        tolerance=protocol.tolerance,
    )
    write_json(job.out / "logreg.json", {"chosen": best, "held_out_images": int(held_out.sum()), "tried": tried})
    tensors = {
        "weight": torch.from_numpy(np.ascontiguousarray(final.weight.T.astype(np.float32))),
        "bias": torch.from_numpy(final.bias.astype(np.float32)),
    }
    write_bytes(job.out / "head.safetensors", save(tensors))
    detail = {"C": C, "held_out_score": tried[best][metric]}
    scores = final.scores(test)
    if test.labels.ndim == 2:
        return metrics.mean_average_precision(
            scores,
            test.labels,
            test.ignored,
            found.classes,
            seed=job.seed,
            eleven_point=True,
            selection="held_out",
            detail=detail,
        )
    top5 = metrics.top_classes(scores)
    metrics.save_correct(job.out, top5[:, 0] == test.labels)
    return metrics.accuracies(
        top5, test.labels, classes, seed=job.seed, selection="held_out", detail=detail, main=metric
    )


def _split(found: JobFeatures, protocol: LogregProtocol, seed: int) -> tuple[list[Part], Features, np.ndarray]:
    """What to fit on, the features to choose on, and which of those count."""
    train = found.train
    if found.val is not None:
        return [Part(train, np.ones(len(train), dtype=bool))], found.val, np.ones(len(found.val), dtype=bool)
    held_out = split_off(train, protocol.held_out, seed)
    return [Part(train, ~held_out)], train, held_out


def held_out_score(scores: np.ndarray, judged: Features, counts: np.ndarray, metric: str) -> float:
    """The metric in percent over the images that count."""
    labels = judged.labels[counts]
    if metric == "mAP":
        valid = np.ones_like(labels) if judged.ignored is None else ~judged.ignored[counts]
        kept = scores[counts]
        columns = range(labels.shape[1])
        aps = [
            metrics.average_precision(kept[valid[:, k], k], labels[valid[:, k], k], eleven_point=True) for k in columns
        ]
        known = [ap for ap in aps if not np.isnan(ap)]
        return 100.0 * float(np.mean(known)) if known else 0.0
    return float(metrics.accuracy(scores[counts].argmax(axis=1) == labels, labels, metric))
