"""The suite from Python: any checkpoint as a backbone, the features of a set, and what probes make of them.

    backbone = load_backbone("moco_v2_800ep_pretrain.pth.tar")
    images = Catalog.load("catalog.yaml")
    train, test = (extract(backbone, images.images("cifar10", split)) for split in ("train", "test"))
    print(knn_top1(train, test))

`measure` runs any task by its protocol, as `fastmoco evaluate` does, and gives its metrics.
Shapes: D feature width, N samples, K classes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evaluate.checkpoints.load import LoadedBackbone, load_backbone
from evaluate.frozen.features import Features
from evaluate.frozen.features import extract as extract_features
from evaluate.inputs import test_input
from evaluate.knn import neighbours, usable_ks, vote
from evaluate.metrics import top_classes
from evaluate.protocols.knn import PROTOCOLS as KNN_PROTOCOLS
from evaluate.task import Job, resolve_protocol, run
from pretrain.data.catalog import Catalog
from pretrain.data.images import ImageSet
from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError
from pretrain.transforms import TestTransform
from results.row import Metric

__all__ = ["Catalog", "Features", "LoadedBackbone", "extract", "knn_top1", "load_backbone", "measure"]


def extract(
    backbone: LoadedBackbone,
    images: ImageSet,
    *,
    transform: TestTransform | None = None,
    device: str | torch.device = "auto",
    cache: Path | None = None,
) -> Features:
    """The backbone's pooled features of all images, (N, D) float32 in `.take` or `.blocks`, with their labels.

    Args:
        transform: what is done to an image; when not given, what the protocols do: shorter side 256, centre crop 224,
            the checkpoint's own normalisation, and images of at most 64 pixels at their own size.
        device: "auto" takes a GPU if there is one.
        cache: features are kept here and read from here; `$FASTMOCO_CACHE` or ~/.cache/fastmoco when not given.

    Raises:
        InputError: an image does not decode, or the backbone gives values that are not finite.
    """
    transform = transform or test_input(
        KNN_PROTOCOLS["dino"], images, backbone.metadata.normalization, module=backbone.module
    )
    return extract_features(backbone, images, transform, _device(device), cache or cache_root())


def knn_top1(train: Features, test: Features, *, k: int = 20, temperature: float = 0.07) -> float:
    """Top-1 in percent of weighted nearest neighbours; the defaults are DINO's (`fastmoco protocols knn dino`).

    Raises:
        InputError: fewer training images than `k`, or features whose images have several labels.
    """
    if train.labels.ndim != 1:
        raise InputError("knn_top1 needs one label an image, these features come with several")
    protocol = KNN_PROTOCOLS["dino"].override({"k": k, "temperature": temperature, "also_k": []})
    usable_ks(protocol, len(train))
    K = int(train.labels.max()) + 1
    correct = 0
    for start, similarity, index in neighbours(train, test, k, protocol, torch.device("cpu")):
        scores = vote(similarity, torch.from_numpy(train.labels)[index], K, protocol)
        predicted = top_classes(scores.numpy())[:, 0]
        correct += int(np.count_nonzero(predicted == test.labels[start : start + len(predicted)]))
    return 100.0 * correct / len(test)


def measure(
    task: str,
    backbone: LoadedBackbone,
    data: str,
    *,
    catalog: Catalog | None = None,
    protocol: str | None = None,
    changes: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    out: Path | None = None,
) -> list[Metric]:
    """Run a task by a named protocol; its metrics, the main one first.

    Args:
        data: a set of the catalog; without a catalog `shapes` and `scenes`, which are generated.
        protocol: the task's default when not given; `changes` are what `--set` is on the command line.
        out: folder for the task's files (heads, pictures, curves, state to go on from); a temporary one when not given.

    Raises:
        InputError: unknown task, protocol, field or data set, or whatever the task refuses.
    """
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}, expected a whole number from 0 to {2**32 - 1}")
    with tempfile.TemporaryDirectory(prefix="fastmoco-") as temporary:
        job = Job(
            backbone=backbone,
            catalog=catalog or Catalog.load(),
            data=data,
            protocol=resolve_protocol(task, protocol, changes),
            seed=seed,
            device=_device(device),
            out=Path(out or temporary),
            cache=cache_root(),
        )
        job.out.mkdir(parents=True, exist_ok=True)
        return run(task, job)


def _device(wish: str | torch.device) -> torch.device:
    if wish == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(wish)
