"""What the fast views do to learning: CIFAR-10 kNN after the same short training with them and with PIL's.

python -m benchmarks.perf.learning --catalog CATALOG [--rows FILE] [--seeds N] [--images N] [--epochs N]

The draws are the same for both, so are the images, their order and the fresh weights; only the pixels differ, by a
level on average. Each finished training is a line of FILE, and is not done again. About three minutes a training on
one core; the others of this folder take less, so `python -m benchmarks.perf` leaves this one out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from itertools import product
from pathlib import Path

import cv2
import torch

import pretrain.views.two_views
from benchmarks.perf.peers.pipelines import PilTwoViews
from evaluate.checkpoints.load import load_backbone
from evaluate.task import Job, resolve_protocol
from evaluate.task import run as run_task
from pretrain.data.catalog import Catalog
from pretrain.data.splits import few
from pretrain.recipe import Recipe
from pretrain.recipes import resolve_recipe
from pretrain.train import train
from pretrain.views.two_views import TwoViews

CPU = torch.device("cpu")
PIPELINES: dict[str, type[TwoViews]] = {"PIL": PilTwoViews, "fastmoco": TwoViews}


def short_recipe(epochs: int) -> Recipe:
    """CIFAR's recipe with blur, which it leaves out: it is the operation that differs most from PIL's."""
    return resolve_recipe("cifar_resnet20_e20", {"epochs": epochs, "views.blur_p": [0.5, 0.5]})


def knn_after_training(catalog: Catalog, recipe: Recipe, pipeline: str, seed: int, images: int) -> float:
    """kNN top-1 in percent on 5000 test images, after training on `images` of train with that pipeline's pixels."""
    data = catalog.images("cifar10", "train")
    data = data.subset(few(data.labels, per_class=images // 10, seed=0))
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        # The loader has no setting for a pipeline that nobody should use: it is put in place for this training alone.
        pretrain.views.two_views.TwoViews = PIPELINES[pipeline]  # type: ignore[misc]
        try:
            trained = train(recipe, data, seed=seed, out=out / "pretrain", device=CPU)
        finally:
            pretrain.views.two_views.TwoViews = TwoViews  # type: ignore[misc]
        backbone = load_backbone(str(trained.backbone_path))
        protocol = resolve_protocol("knn", None, {"train_limit": images, "test_limit": 5000})
        job = Job(backbone, catalog, "cifar10", protocol, 0, CPU, out / "knn", out / "cache")
        return {metric.name: metric.value for metric in run_task("knn", job)}["top1"]


def compare(catalog: Catalog, rows_file: Path | None, seeds: int, images: int, epochs: int) -> None:
    """Train with each pipeline and seed that FILE has no row of; print the means and the paired difference."""
    recipe = short_recipe(epochs)
    lines = rows_file.read_text().splitlines() if rows_file is not None and rows_file.exists() else []
    rows = [json.loads(line) for line in lines]
    scores = {
        (row["pipeline"], row["seed"]): float(row["top1"])
        for row in rows
        if (row["images"], row["epochs"]) == (images, epochs)
    }
    for seed, pipeline in product(range(seeds), PIPELINES):
        if (pipeline, seed) in scores:
            continue
        top1 = scores[pipeline, seed] = knn_after_training(catalog, recipe, pipeline, seed, images)
        print(f"seed {seed}, {pipeline}: kNN top-1 {top1:.2f} %", flush=True)
        if rows_file is not None:
            row = {"pipeline": pipeline, "seed": seed, "images": images, "epochs": epochs, "top1": top1}
            with rows_file.open("a") as stream:
                stream.write(json.dumps(row) + "\n")
    for pipeline in PIPELINES:
        values = [scores[pipeline, seed] for seed in range(seeds)]
        print(f"{pipeline}: kNN top-1 {statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} %, {seeds} seeds")
    paired = [scores["fastmoco", seed] - scores["PIL", seed] for seed in range(seeds)]
    print(f"fastmoco - PIL, paired by seed: {statistics.mean(paired):+.2f} ± {statistics.stdev(paired):.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", type=Path, required=True, help="a catalog with an entry cifar10")
    parser.add_argument("--rows", type=Path, help="keep finished trainings in this file")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    compare(Catalog.load(given.catalog), given.rows, given.seeds, given.images, given.epochs)
