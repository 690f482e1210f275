"""How fast two views of an image are made on one core, against PIL with torchvision's transforms, and what they teach.

python -m benchmarks.perf.views [--images FOLDER] [--repeats N]     speed: pipelines take turns on the same images
python -m benchmarks.perf.views --learning CATALOG [--seeds N]      CIFAR-10 kNN after the same short training with each

Targets (issue "Two views per image"): float32 out 2.5 times PIL v1, uint8 out 3.3 times. Images are drawn (500 x 375
JPEG of quality 90, about 100 kB, as ImageNet's are) unless a folder is given.
"""

from __future__ import annotations

import argparse
import io
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import io as torchvision_io
from torchvision import transforms as v1
from torchvision.transforms import functional as v1_functional
from torchvision.transforms import v2

from pretrain import views as views_module
from pretrain.backbones import build
from pretrain.data.images import SUFFIXES, ImageSet, Source
from pretrain.data.shapes import Pose, add_noise, draw_background, draw_shape
from pretrain.recipe_views import MOCO_V2, ViewsSpec
from pretrain.view_draws import draw_view
from pretrain.views import TwoViews, two_view_loader

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


class PilBlur:
    """MoCo v2's blur: PIL's, sigma uniform in 0.1 to 2."""

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(radius=0.1 + 1.9 * float(torch.rand(()))))


def pil_v1() -> Callable[[bytes], tuple[Tensor, Tensor]]:
    """The field's pipeline: PIL images through torchvision's first transforms, each view on its own."""
    transform = v1.Compose(
        [
            v1.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=v1.InterpolationMode.BICUBIC),
            v1.RandomApply([v1.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v1.RandomGrayscale(p=0.2),
            v1.RandomApply([PilBlur()], p=0.5),
            v1.RandomHorizontalFlip(),
            v1.ToTensor(),
            v1.Normalize(MOCO_V2.mean, MOCO_V2.std),
        ]
    )

    def make(data: bytes) -> tuple[Tensor, Tensor]:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        return transform(image), transform(image)

    return make


def v2_tensors() -> Callable[[bytes], tuple[Tensor, Tensor]]:
    transform = v2.Compose(
        [
            v2.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], p=0.5),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MOCO_V2.mean, MOCO_V2.std),
        ]
    )

    def make(data: bytes) -> tuple[Tensor, Tensor]:
        image = torchvision_io.decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        return transform(image), transform(image)

    return make


def kornia_batches() -> Callable[[list[bytes]], Any] | None:
    """Kornia's augmentation of a batch of decoded and resized images; None where it is not installed."""
    try:
        import kornia.augmentation as K
    except ModuleNotFoundError:
        return None
    transform = nn.Sequential(
        K.RandomResizedCrop((224, 224), scale=(0.2, 1.0), resample="bicubic"),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((13, 13), (0.1, 2.0), p=0.5),
        K.RandomHorizontalFlip(),
    )

    def make(files: list[bytes]) -> tuple[Tensor, Tensor]:
        decoded = [torch.from_numpy(simplejpeg.decode_jpeg(data)).permute(2, 0, 1).float() / 255 for data in files]
        batch = torch.stack([nn.functional.interpolate(x[None], (375, 500))[0] for x in decoded])
        return transform(batch), transform(batch)

    return make


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


class PilDataset(Dataset[Any]):
    def __init__(self, files: list[bytes]) -> None:
        self.files, self.make = files, pil_v1()

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.make(self.files[index])


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


class PilTwoViews(TwoViews):
    """The reference for learning: the same draws, applied with PIL and torchvision's functions on PIL images."""

    def write(self, image: np.ndarray, index: int, epoch: int, places: tuple[Tensor, ...]) -> None:
        for view, place in enumerate(places):
            draw = draw_view(self.spec, self.seed, epoch, index, view, *image.shape[:2])
            mode = v1.InterpolationMode(self.spec.interpolation)
            x = v1_functional.resized_crop(Image.fromarray(image), *draw.box, [self.spec.size] * 2, mode)
            if draw.jitter is not None:
                for operation in draw.order:
                    x = _PIL_JITTER[operation](x, draw.jitter[operation])
            if draw.gray:
                x = v1_functional.rgb_to_grayscale(x, 3)
            if draw.blur_sigma:
                x = x.filter(ImageFilter.GaussianBlur(radius=draw.blur_sigma))
            if draw.solarize:
                x = ImageOps.solarize(x)
            if draw.flip:
                x = v1_functional.hflip(x)
            place.copy_(v1_functional.normalize(v1_functional.to_tensor(x), self.spec.mean, self.spec.std))


_PIL_JITTER = (
    v1_functional.adjust_brightness,
    v1_functional.adjust_contrast,
    v1_functional.adjust_saturation,
    v1_functional.adjust_hue,
)


def learning(catalog_file: Path, seeds: int, images: int, epochs: int) -> None:
    """CIFAR-10 kNN top-1 after the same training with either pipeline; the draws are the same, the pixels are not."""
    from evaluate.checkpoints.load import load_backbone
    from evaluate.task import Job, resolve_protocol, run
    from pretrain.data.catalog import Catalog
    from pretrain.data.splits import few
    from pretrain.recipe import resolve_recipe
    from pretrain.train import train

    catalog = Catalog.load(catalog_file)
    data = catalog.images("cifar10", "train")
    data = data.subset(few(data.labels, per_class=images // 10, seed=0))
    # Blur on, which the recipe for CIFAR leaves out: it is the operation that differs most from PIL's.
    recipe = resolve_recipe("cifar_resnet20_e20", {"epochs": epochs, "views.blur_p": [0.5, 0.5], "workers": 1})
    protocol = resolve_protocol("knn", None, {"train_limit": images, "test_limit": 5000})
    scores: dict[str, list[float]] = {"PIL": [], "fastmoco": []}
    for seed in range(seeds):
        for name, made_by in (("PIL", PilTwoViews), ("fastmoco", TwoViews)):
            with tempfile.TemporaryDirectory() as temporary:
                out, device = Path(temporary), torch.device("cpu")
                views_module.TwoViews = made_by  # type: ignore[misc]
                try:
                    trained = train(recipe, data, seed=seed, out=out / "pretrain", device=device)
                finally:
                    views_module.TwoViews = TwoViews  # type: ignore[misc]
                backbone = load_backbone(str(trained.backbone_path))
                job = Job(backbone, catalog, "cifar10", protocol, 0, device, out / "knn", out / "cache")
                metrics = {metric.name: metric.value for metric in run("knn", job)}
            scores[name].append(metrics.get("top1") or max(metrics.values()))
            print(f"seed {seed}, {name}: kNN top-1 {scores[name][-1]:.2f} %", flush=True)
    paired = [ours - theirs for ours, theirs in zip(scores["fastmoco"], scores["PIL"], strict=True)]
    for name, values in scores.items():
        print(f"{name}: {statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} % over {seeds} seeds")
    print(f"fastmoco - PIL, paired by seed: {statistics.mean(paired):+.2f} ± {statistics.stdev(paired):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of JPEG files, instead of drawn ones")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--learning", type=Path, metavar="CATALOG", help="compare what is learned on its cifar10")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if given.learning:
        learning(given.learning, given.seeds, 5000, given.epochs)
        return
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
