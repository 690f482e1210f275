"""What probing costs against its peers: the sweep, one backbone pass, exact kNN, L-BFGS. Ratios, paired per repeat.

python -m benchmarks.perf.probe [--images N] [--width D] [--repeats R]

One thread; run it on a quiet machine. faiss is compared where it can be imported. The BLAS kernel that each peer uses
is printed with the ratios, since it decides them.
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

from benchmarks.perf.peers.clusters import CLASSES, synthetic
from benchmarks.perf.peers.neighbours import QUERIES, K, in_a_process
from evaluate.frozen import heads, regression
from evaluate.frozen.features import Features
from evaluate.protocols.linear import PROTOCOLS as LINEAR
from evaluate.protocols.linear import SweepProtocol
from pretrain.backbones import registry

CPU = torch.device("cpu")
SWEEP_TARGET, BACKBONE_TARGET, KNN_TARGET = 0.75, 50.0, 0.8
FAISS_KERNELS = ("", "Haswell", "SkylakeX")  # values of OPENBLAS_CORETYPE
LBFGS_SIGNAL = 0.1  # weak, so that the held-out accuracy tells one solution from another
EQUAL_ACCURACY = 0.5  # %, of 2,000 held-out images: ten of them


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
    module = registry.build("resnet50").eval().to(memory_format=torch.channels_last)
    images = torch.randn(16, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        module(images)
        return statistics.median(seconds(lambda: module(images)) / 16 for _ in range(repeats))


def knn_against_faiss(images: int, width: int, repeats: int) -> str:
    """One line: our exact search against faiss.knn in its best BLAS setting, k = 200, 1,000 normalised queries.

    Both run in processes of their own, one after the other in each repeat: faiss's OpenBLAS does not know newer chips
    and is tried with each kernel that may suit one; ours runs as a user's would, with none set.
    """
    if importlib.util.find_spec("faiss") is None:
        return "kNN: faiss is not installed (pip install faiss-cpu), not compared"
    ours: list[float] = []
    theirs: dict[str, list[float]] = {coretype: [] for coretype in FAISS_KERNELS}
    names: dict[str, str] = {}
    for _ in range(repeats):
        cpu_s, kernels, found = in_a_process("ours", "", images, width)
        ours.append(cpu_s)
        for coretype in FAISS_KERNELS:
            cpu_s, names[coretype], reference = in_a_process("faiss", coretype, images, width)
            theirs[coretype].append(cpu_s)
            overlap = np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(found, reference, strict=True)])
            assert overlap > 0.999, f"the neighbours differ: overlap {overlap}"
    best = min(theirs, key=lambda coretype: statistics.median(theirs[coretype]))
    ratio = statistics.median(mine / peer for mine, peer in zip(ours, theirs[best], strict=True))
    others = ", ".join(f"{names[key]} {statistics.median(times):.2f} s" for key, times in theirs.items())
    return (
        f"kNN, {QUERIES} x {images} x {width}, k {K}: {ratio:.2f} x faiss.knn ({statistics.median(ours):.2f} s on "
        f"{kernels} against {others}), target <= {KNN_TARGET}: {verdict(ratio <= KNN_TARGET)}"
    )


def product_seconds(images: int, width: int) -> float:
    """CPU seconds of the products alone, numpy in float32: what exact search cannot go below."""
    query, block = (synthetic(n, width, 0).take(np.arange(n)) for n in (QUERIES, min(images, 8192)))
    out = np.empty((len(query), len(block)), dtype=np.float32)
    np.matmul(query, block.T, out=out)
    block_s = statistics.median(seconds(lambda: np.matmul(query, block.T, out=out)) for _ in range(3))
    return block_s * images / len(block)


def lbfgs_against_sklearn(data: Features, held_out: Features, C: float) -> tuple[float, float, float, float]:
    """(our, scikit-learn's CPU seconds, our, its held-out accuracy) for one C, both to convergence from zero."""

    accuracies: list[float] = []

    def ours() -> None:
        objective = regression.Objective([regression.Part(data, np.ones(len(data), dtype=bool))], CLASSES)
        found, _ = regression.fit(objective, C, start=None, max_iterations=1000, tolerance=1e-5)
        accuracies.append(100 * float((found.scores(held_out).argmax(axis=1) == held_out.labels).mean()))

    def theirs() -> None:
        model = LogisticRegression(C=C, max_iter=1000, tol=1e-4).fit(data.take(np.arange(len(data))), data.labels)
        accuracies.append(100 * float(model.score(held_out.take(np.arange(len(held_out))), held_out.labels)))

    ours_s, theirs_s = seconds(ours), seconds(theirs)
    return ours_s, theirs_s, accuracies[0], accuracies[1]


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
    data = synthetic(images, width, 0)
    with threadpoolctl.threadpool_limits(1):
        print(knn_against_faiss(images, width, repeats), flush=True)
        print(f"     its products alone: {product_seconds(images, width):.2f} s", flush=True)
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
        few, held_out = (synthetic(n, width, seed, LBFGS_SIGNAL) for n, seed in ((min(images, 10_000), 0), (2000, 2)))
        ours_s, theirs_s, ours, theirs = lbfgs_against_sklearn(few, held_out, 0.01)
        print(
            f"L-BFGS, C 0.01, {len(few)} images: {ours_s / theirs_s:.2f} x scikit-learn ({ours_s:.1f} s against "
            f"{theirs_s:.1f} s) at held-out {ours:.1f} against {theirs:.1f} %"
            f"{'' if abs(ours - theirs) <= EQUAL_ACCURACY else ': NOT the same classifier'}"
        )
    print(f"BLAS: {kernels()}; torch: MKL")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    main(arguments.images, arguments.width, arguments.repeats)
