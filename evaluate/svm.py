"""Linear SVMs on frozen features of sets with several labels an image (VOC07 classification).

Shapes: D feature width, K classes, N images.
"""

from __future__ import annotations

import logging
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC

from evaluate import metrics
from evaluate.frozen.features import Features
from evaluate.frozen.probe_data import job_features
from evaluate.protocols.svm import SvmProtocol
from evaluate.task import Job
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_json
from pretrain.runtime.interrupt import stop_request
from pretrain.runtime.progress import progress
from results.row import Metric

log = logging.getLogger("fastmoco")


def run(job: Job) -> list[Metric]:
    """mAP (area under the curve) with its bootstrap interval, mAP_11_point, and each class's AP, on test.

    Writes `svm.json`: the cross-validated AP of every class and cost, and the cost chosen for each class.

    Raises:
        InputError: what `job_features` refuses, one label an image, or a class that fewer training images show, or
            lack, than there are folds.
    """
    protocol = job.protocol
    assert isinstance(protocol, SvmProtocol)
    found = job_features(job)
    if found is None:
        return []
    train, test, names = found.train, found.test, found.classes
    if train.labels.ndim != 2:
        raise InputError(f"'{job.data}' has one label an image: svm is for several (VOC07); use linear or logreg")
    _check_folds(train.labels, names, protocol.folds, job.data)
    # liblinear wants all of train in memory, in float64: 5,011 x 2048 of VOC07 are 82 MB.
    x, x_test = (_matrix(features, protocol.l2_normalize) for features in (train, test))
    scores = np.empty((len(test), len(names)))
    chosen: dict[str, dict[str, object]] = {}
    with progress("SVMs", len(names), unit="classes") as bar, stop_request() as stop:
        for k, name in enumerate(names):
            if stop.requested:
                raise stop.leave("run the same command again; the features are cached")
            target = train.labels[:, k]
            aps = [cross_validated_ap(x, target, cost, protocol, job.seed) for cost in protocol.costs]
            cost = protocol.costs[int(np.argmax(aps))]  # of equals the first
            scores[:, k] = fitted(x, target, cost, protocol, job.seed).decision_function(x_test)
            chosen[name] = {"cost": cost, "cross_validated_ap": dict(zip(map(str, protocol.costs), aps, strict=True))}
            bar.advance()
    write_json(job.out / "svm.json", chosen)
    return metrics.mean_average_precision(
        scores,
        test.labels,
        test.ignored,
        names,
        seed=job.seed,
        eleven_point=protocol.average_precision == "eleven_point",
        selection="held_out",
        detail={"folds": protocol.folds},
    )


def _check_folds(labels: np.ndarray, names: tuple[str, ...], folds: int, data: str) -> None:
    """Raises InputError: a fold would have no positive, or no negative, of some class. `labels` is (N, K) bool."""
    positives = labels.sum(axis=0)
    expected = f"expected at least one in each of {folds} folds"
    if positives.min() < folds:
        k = int(positives.argmin())
        raise InputError(f"class '{names[k]}' of {data} has {positives[k]} training images, {expected}")
    negatives = len(labels) - positives
    if negatives.min() < folds:
        k = int(negatives.argmin())
        raise InputError(
            f"class '{names[k]}' of {data} is in {positives[k]} of its {len(labels)} training images, which leaves "
            f"{negatives[k]} without it, {expected}"
        )


def fitted(x: np.ndarray, target: np.ndarray, cost: float, protocol: SvmProtocol, seed: int) -> LinearSVC:
    """One class's SVM. liblinear's limit on iterations is part of the protocol, so reaching it is no warning."""
    machine = LinearSVC(
        C=cost,
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        class_weight={True: protocol.positive_weight, False: 1.0},
        max_iter=protocol.max_iterations,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return machine.fit(x, target)


def cross_validated_ap(x: np.ndarray, target: np.ndarray, cost: float, protocol: SvmProtocol, seed: int) -> float:
    """Mean over the folds of the AP in percent, by the lines of VISSL and mmselfsup.

    That is `cross_val_score(..., scoring="average_precision")`: stratified, unshuffled folds, and scikit-learn's AP,
    which does not make precision non-increasing.
    """
    aps = []
    for rows, held_out in StratifiedKFold(protocol.folds).split(x, target):
        machine = fitted(x[rows], target[rows], cost, protocol, seed)
        scores = machine.decision_function(x[held_out])
        aps.append(100.0 * average_precision_score(target[held_out], scores))
    return float(np.mean(aps))


def _matrix(features: Features, l2_normalize: bool) -> np.ndarray:
    x = features.take(np.arange(len(features))).astype(np.float64)
    return x / (np.linalg.norm(x, axis=1, keepdims=True) + 1e-5) if l2_normalize else x  # 1e-5: VISSL's svm_trainer.py
