"""What probing costs against its peers: the sweep, one backbone pass, exact kNN, L-BFGS. Ratios, paired per repeat.

python -m benchmarks.perf.probe [--images N] [--width D] [--repeats R]

One thread; run it on a quiet machine. faiss is compared where it can be imported. The BLAS kernel that each peer uses
is printed with the ratios, since it decides them: set OPENBLAS_CORETYPE to give faiss's older OpenBLAS its best kernel.
"""

from __future__ import annotations

import argparse
import importlib.util
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import threadpoolctl
import torch
from sklearn.linear_model import LogisticRegression

from evaluate import heads, knn, regression
from evaluate.features import Features
from evaluate.protocols.knn import PROTOCOLS
from evaluate.protocols.linear import PROTOCOLS as LINEAR
from evaluate.protocols.linear import SweepProtocol
from pretrain import backbones

CPU = torch.device("cpu")
CLASSES = 100
SWEEP_TARGET, BACKBONE_TARGET, KNN_TARGET = 0.75, 50.0, 0.8


def synthetic(n: int, width: int, seed: int) -> Features:
    """Noisy clusters, one a class, non-negative as pooled ReLU features are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(1).normal(size=(CLASSES, width)).astype(np.float32)
    labels = rng.integers(0, CLASSES, n)
    values = np.maximum(0.25 * centres[labels] + rng.standard_normal((n, width), dtype=np.float32), 0)
    return Features(values, np.arange(n), labels)


def normalised(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def seconds(work: Callable[[], object]) -> float:
    begin = time.process_time()
    work()
    return time.process_time() - begin


def sweep_against_single_runs(data: Features, repeats: int) -> tuple[float, float]:
    """Median of (12 lrs in one pass) / (sum of 12 passes of one lr), and CPU seconds of one sweep epoch."""
    protocol = LINEAR["sweep"]
    assert isinstance(protocol, SweepProtocol)
    scaling = heads.scaling_of(data, CPU)

    def train(lrs: list[float]) -> None:
        heads.train_heads(
            data,
            CLASSES,
            lrs,
            [0.0] * len(lrs),
            epochs=1,
            batch_size=protocol.batch_size,
            momentum=protocol.momentum,
            scaling=scaling,
            seed=0,
            device=CPU,
        )

    ratios, one_pass = [], []
    for _ in range(repeats):
        one_pass.append(seconds(lambda: train(list(protocol.lrs))))
        single = sum(seconds(partial(train, [lr])) for lr in protocol.lrs)
        ratios.append(one_pass[-1] / single)
    return statistics.median(ratios), statistics.median(one_pass)


def backbone_seconds_an_image(repeats: int) -> float:
    """CPU seconds of a ResNet-50 forward pass at 224, batch 16."""
    module = backbones.build("resnet50").eval().to(memory_format=torch.channels_last)
    images = torch.randn(16, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        module(images)
        return statistics.median(seconds(lambda: module(images)) / 16 for _ in range(repeats))


def knn_against_faiss(data: Features, queries: Features, repeats: int) -> tuple[float, float, float] | None:
    """(ours / faiss.knn median, our and faiss's CPU seconds) for k=200 on normalised features; None without faiss."""
    if importlib.util.find_spec("faiss") is None:
        return None
    import faiss

    faiss.omp_set_num_threads(1)
    protocol = PROTOCOLS["dino"]
    train, query = (normalised(features.take(np.arange(len(features)))) for features in (data, queries))
    ours, theirs = [], []
    found: list[np.ndarray] = []
    reference: list[np.ndarray] = []

    def search() -> None:
        found[:] = [index.numpy() for _s, _v, index in knn.neighbours(data, queries, 200, protocol, CPU)]

    def search_faiss() -> None:
        reference[:] = [faiss.knn(query, train, 200, metric=faiss.METRIC_INNER_PRODUCT)[1]]

    for _ in range(repeats):
        ours.append(seconds(search))
        theirs.append(seconds(search_faiss))
        pairs = zip(np.concatenate(found), reference[0], strict=True)
        overlap = np.mean([len(np.intersect1d(a, b)) / 200 for a, b in pairs])
        assert overlap > 0.999, f"the neighbours differ: overlap {overlap}"
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), min(ours), min(theirs)


def lbfgs_against_sklearn(data: Features, held_out: Features, C: float) -> tuple[float, float, float, float]:
    """(our, scikit-learn's CPU seconds, our, its held-out accuracy) for one C, both to convergence from zero."""

    def ours() -> float:
        objective = regression.Objective([regression.Part(data, np.ones(len(data), dtype=bool))], CLASSES)
        found, _ = regression.fit(objective, C, start=None, max_iterations=1000, tolerance=1e-5)
        return float((found.scores(held_out).argmax(axis=1) == held_out.labels).mean())

    def theirs() -> float:
        model = LogisticRegression(C=C, max_iter=1000, tol=1e-4).fit(data.take(np.arange(len(data))), data.labels)
        return float(model.score(held_out.values, held_out.labels))

    accuracies: list[float] = []
    walls = [
        seconds(lambda: accuracies.append(100 * ours())),
        seconds(lambda: accuracies.append(100 * theirs())),
    ]
    return walls[0], walls[1], accuracies[0], accuracies[1]


def kernels() -> str:
    found = threadpoolctl.threadpool_info()
    return "; ".join(
        f"{pool['prefix']} {pool['version']} {pool.get('architecture', '')}"
        for pool in found
        if pool["user_api"] == "blas"
    )


def verdict(ok: bool) -> str:
    return "met" if ok else "MISSED"


def main(images: int, width: int, repeats: int) -> None:
    torch.set_num_threads(1)
    data, queries = synthetic(images, width, 0), synthetic(1000, width, 2)
    with threadpoolctl.threadpool_limits(1):
        peers = knn_against_faiss(data, queries, repeats)
        if peers is None:
            print("kNN: faiss is not installed (pip install faiss-cpu), not compared")
        else:
            ok = verdict(peers[0] <= KNN_TARGET)
            print(
                f"kNN, 1000 x {images} x {width}, k 200: {peers[0]:.2f} x faiss.knn ({peers[1]:.2f} s against "
                f"{peers[2]:.2f} s), target <= {KNN_TARGET}: {ok}"
            )
        ratio, epoch_s = sweep_against_single_runs(data, repeats)
        print(
            f"sweep, 12 lrs: {ratio:.2f} x 12 single runs, target <= {SWEEP_TARGET}: {verdict(ratio <= SWEEP_TARGET)}"
        )
        forward_s = backbone_seconds_an_image(repeats)
        naive, cached = 100 * images * forward_s, images * forward_s + 100 * epoch_s
        print(
            f"100 epochs: backbone each time {naive / cached:.0f} x one pass and a sweep of 12 lrs (from "
            f"{1e3 * forward_s:.1f} ms an image and {epoch_s:.1f} s an epoch), target >= {BACKBONE_TARGET:g}: "
            f"{verdict(naive / cached >= BACKBONE_TARGET)}"
        )
        few = data.subset(np.arange(min(images, 10_000)))
        ours_s, theirs_s, ours, theirs = lbfgs_against_sklearn(few, queries, 0.01)
        print(
            f"L-BFGS, C 0.01, {len(few)} images: {ours_s / theirs_s:.2f} x scikit-learn ({ours_s:.1f} s against "
            f"{theirs_s:.1f} s) at held-out {ours:.1f} against {theirs:.1f} %"
        )
    print(f"BLAS: {kernels()}; torch: MKL")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    main(arguments.images, arguments.width, arguments.repeats)
