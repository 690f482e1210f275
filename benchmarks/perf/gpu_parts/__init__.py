"""The parts of `benchmarks.perf.gpu`: each measures one thing on one device and gives plain figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.perf.gpu_parts import evaluation, recovery, training
from benchmarks.perf.gpu_parts.machine import Machine

__all__ = ["PARTS", "Machine", "Part"]


@dataclass(frozen=True)
class Part:
    """One measurement: what it tells, how many seconds it may take, and how it is done."""

    what: str
    seconds: int
    run: Callable[[Machine], dict[str, Any]]


PARTS = {
    "equal": Part("loss and gradients of a step: CPU against the device in float32, and bf16", 30, training.equal),
    "step": Part("ours, the public code's, MoCo v3's and the bare backbone's step: images/s, MFU", 90, training.steps),
    "compile": Part("the step compiled: seconds to compile, images/s", 90, training.compiled_step),
    "loader": Part("two views of JPEGs by the workers, and finished on the device: images/s", 60, training.loader),
    "extraction": Part("frozen features of ResNet-50 and ViT-B, float32 and bf16: images/s", 40, evaluation.extraction),
    "knn": Part("exact neighbours of 50,000 queries among 1.28 million of width 2048: seconds", 75, evaluation.knn),
    "sweep": Part("12 linear classifiers in one pass over 100,000 features: seconds", 40, evaluation.sweep),
    "ranks": Part("a group of one rank: all_reduce and gather by NCCL (gloo on a CPU)", 15, recovery.ranks),
    "memory": Part("a batch that does not fit ends in a sentence", 30, recovery.out_of_memory),
    "resume": Part("a run stopped by SIGTERM in mid-step and resumed, against one that was not", 90, recovery.resume),
    "learning": Part("Fast-MoCo and one positive a view on generated images: kNN top-1", 60, recovery.learning),
}
