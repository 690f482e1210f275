"""How fast two views of an image are made on one core, against PIL with torchvision's transforms.

python -m benchmarks.perf.views [--images FOLDER] [--repeats N]     pipelines take turns on the same images

Targets (issue "Two views per image"): float32 out 2.5 times PIL v1, uint8 out 3.3 times. What the views do to learning
is measured by `benchmarks.perf.learning`. Images are drawn (500 x 375
JPEG of quality 90, about 100 kB, as ImageNet's are) unless a folder is given.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.perf.peers.pipelines import PilDataset, kornia_batches, pil_v1, v2_tensors
from pretrain.backbones.registry import build
from pretrain.data.generated.shapes import Pose, add_noise, draw_background, draw_shape
from pretrain.data.images import ImageSet, Source
from pretrain.data.names import SUFFIXES
from pretrain.views.settings import MOCO_V2, ViewsSpec
from pretrain.views.two_views import TwoViews, two_view_loader

BATCH = 16


class Encoded(Source):
    """Image files held in memory, so that no disk is measured."""

    identity = "benchmark"

    def __init__(self, files: list[bytes]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def encoded(self, row: int) -> bytes:
        return self.files[row]

    def where(self, row: int) -> str:
        return f"image {row}"


def drawn_jpegs(count: int) -> list[bytes]:
    files = []
    for index in range(count):
        rng = np.random.Generator(np.random.Philox(index))
        canvas = draw_background(375, 500, rng)
        for _ in range(6):
            x, y, radius, angle, kind = rng.random(5).tolist()
            draw_shape(canvas, int(10 * kind), Pose(500 * x, 375 * y, 30 + 60 * radius, 6.3 * angle), rng)
        files.append(simplejpeg.encode_jpeg(add_noise(canvas, rng, 12), 90))
    return files


def ours(images: ImageSet, spec: ViewsSpec) -> Callable[[list[int]], Any]:
    views = TwoViews(spec, seed=0)

    def make(indices: list[int]) -> tuple[Tensor, ...]:
        places = views.empty(len(indices))
        for row, index in enumerate(indices):
            views.write(images.decode(index), index, 0, tuple(place[row] for place in places))
        return places

    return make


def speed(files: list[bytes], repeats: int) -> dict[str, float]:
    """Median over `repeats` of each pipeline's speed relative to PIL v1's in the same round; prints all."""
    images = ImageSet(
        Encoded(files), name="b", split="train", classes=("x",), labels=np.zeros(len(files), dtype=np.int64)
    )
    pil, tensors, kornia = pil_v1(), v2_tensors(), kornia_batches()
    as_uint8 = MOCO_V2.model_copy(update={"output": "uint8"})
    float_views, uint8_views = ours(images, MOCO_V2), ours(images, as_uint8)
    pipelines: dict[str, Callable[[list[int]], Any]] = {
        "PIL, torchvision v1": lambda rows: [pil(files[row]) for row in rows],
        "tensors, torchvision v2": lambda rows: [tensors(files[row]) for row in rows],
        "fastmoco, float32": float_views,
        "fastmoco, uint8": uint8_views,
        "decoding alone": lambda rows: [images.decode(row) for row in rows],
    }
    if kornia is not None:
        pipelines["kornia, batches"] = lambda rows: kornia([files[row] for row in rows])
    walls: dict[str, list[float]] = {name: [] for name in pipelines}
    for work in pipelines.values():
        work(list(range(4)))
    for repeat in range(repeats):
        rows = [(repeat * BATCH + offset) % len(files) for offset in range(BATCH)]
        for name, work in pipelines.items():
            began = time.perf_counter()
            work(rows)
            walls[name].append(time.perf_counter() - began)
    base = walls["PIL, torchvision v1"]
    ratios = {}
    print(f"\n{'pipeline':<26}{'images/s a core':>16}{'times PIL v1 (quartiles)':>30}")
    for name, times in walls.items():
        paired = [a / b for a, b in zip(base, times, strict=True)]
        low, ratios[name], high = statistics.quantiles(paired, n=4)
        print(f"{name:<26}{BATCH / statistics.median(times):>16.0f}{ratios[name]:>16.2f} ({low:.2f} to {high:.2f})")
    if kornia is None:
        print("kornia is not installed: left out")
    return ratios


def through_workers(files: list[bytes], workers: int) -> None:
    """End to end through a DataLoader: images/s of both pipelines with the same number of workers."""
    images = ImageSet(
        Encoded(files), name="b", split="train", classes=("x",), labels=np.zeros(len(files), dtype=np.int64)
    )
    made: dict[str, Callable[[int], Iterator[Any]]] = {
        "PIL, torchvision v1": lambda _: iter(DataLoader(PilDataset(files), batch_size=BATCH, num_workers=workers)),
        "fastmoco, float32": lambda epoch: iter(
            two_view_loader(images, MOCO_V2, batch_size_per_rank=BATCH, seed=0, epoch=epoch, workers=workers)
        ),
    }
    rates: dict[str, list[float]] = {name: [] for name in made}
    for epoch in range(3):
        for name, batches in made.items():
            loader = batches(epoch)
            next(loader)  # the workers have started
            began = time.perf_counter()
            count = sum(len(batch[0]) for batch in loader)
            rates[name].append(count / (time.perf_counter() - began))
    text = ", ".join(f"{name} {statistics.median(rate):.0f} images/s" for name, rate in rates.items())
    print(f"\nDataLoader, {workers} workers, batches of {BATCH}: {text}")


def beside_a_step(files: list[bytes]) -> float:
    """Input and step together against the step alone: ResNet-18 at 224 in this process, one worker for the views."""
    images = ImageSet(
        Encoded(files), name="b", split="train", classes=("x",), labels=np.zeros(len(files), dtype=np.int64)
    )
    model = build("resnet18").to(memory_format=torch.channels_last)

    def step(one: Tensor, two: Tensor) -> None:
        for view in (one, two):
            model(view.contiguous(memory_format=torch.channels_last)).square().mean().backward()

    ratios = []
    for epoch in range(3):
        loader = two_view_loader(images, MOCO_V2, batch_size_per_rank=BATCH, seed=0, epoch=epoch, workers=1)
        batches = iter(loader)
        one, two, _ = next(batches)
        began = time.perf_counter()
        for _ in range(4):
            step(one, two)
        alone = (time.perf_counter() - began) / 4
        began = time.perf_counter()
        count = 0
        for one, two, _ in batches:
            step(one, two)
            count += 1
        ratios.append((time.perf_counter() - began) / count / alone)
    print(f"\ninput and step together / step alone, 1 worker: {statistics.median(ratios):.3f} (target 1.05 at most)")
    return statistics.median(ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of JPEG files, instead of drawn ones")
    parser.add_argument("--repeats", type=int, default=25)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if given.images:
        files = [path.read_bytes() for path in sorted(given.images.rglob("*")) if path.suffix.lower() in SUFFIXES[:2]]
        files = files[:400]
    else:
        files = drawn_jpegs(200)
    print(
        f"{len(files)} images, {sum(map(len, files)) / len(files) / 1000:.0f} kB on average; torch {torch.__version__}"
    )
    ratios = speed(files, given.repeats)
    for name, target in (("fastmoco, float32", 2.5), ("fastmoco, uint8", 3.3)):
        print(
            f"{name}: {ratios[name]:.2f} times PIL v1, target {target}: {'met' if ratios[name] >= target else 'missed'}"
        )
    through_workers(files, 1)
    beside_a_step(files)


if __name__ == "__main__":
    main()
