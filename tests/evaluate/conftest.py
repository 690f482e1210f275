"""Small sets and backbones that the tests of the classification tasks share."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from evaluate import task
from evaluate.checkpoints.load import LoadedBackbone, load_backbone
from evaluate.protocols.base import TaskProtocol
from evaluate.task import Job, resolve_protocol
from pretrain.backbones import registry
from pretrain.backbones.handover import BackboneMetadata
from pretrain.data.catalog import Catalog, Entry, ImageFolderEntry
from pretrain.data.images import ImageSet, Source
from pretrain.runtime.errors import InputError


class InMemory(Source):
    """Pictures (N, H, W, 3) uint8 as PNG files in memory."""

    def __init__(self, pictures: np.ndarray, identity: str) -> None:
        self.files = []
        for picture in pictures:
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, format="PNG")
            self.files.append(stream.getvalue())
        self.identity = identity

    def __len__(self) -> int:
        return len(self.files)

    def encoded(self, row: int) -> bytes:
        return self.files[row]

    def where(self, row: int) -> str:
        return f"picture {row}"


def coloured_set(
    split: str,
    per_class: int,
    *,
    classes: int = 3,
    side: int = 8,
    seed: int = 0,
    name: str = "colours",
    noise: float = 40,
) -> ImageSet:
    """Noisy pictures, one colour a class: easy, so that a probe must reach a high accuracy on them."""
    rng = np.random.default_rng([seed, len(split)])
    colours = np.random.default_rng(7).integers(40, 216, size=(classes, 3))
    labels = np.tile(np.arange(classes), per_class)
    pictures = colours[labels][:, None, None, :] + rng.normal(0, noise, size=(len(labels), side, side, 3))
    source = InMemory(
        pictures.clip(0, 255).astype(np.uint8), f"{name}-{split}-{per_class}-{classes}-{side}-{seed}-{noise}"
    )
    return ImageSet(
        source, name=name, split=split, classes=[f"c{i}" for i in range(classes)], labels=labels.astype(np.int64)
    )


class FakeCatalog(Catalog):
    """A catalog whose sets are given as objects."""

    def __init__(self, **splits: ImageSet) -> None:
        super().__init__()
        self.splits = splits

    def entry(self, name: str) -> Entry:
        present = dict.fromkeys(self.splits, "-")
        return ImageFolderEntry(format="imagefolder", **present)

    def images(self, name: str, split: str) -> ImageSet:
        if split not in self.splits:
            raise InputError(f"no split {split}")
        return self.splits[split]


class MeanColour(registry.Backbone):
    """A backbone of one batch norm whose features are the mean colour and its square: D = 6."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.width, self.stride = "mean_colour", 6, 1
        self.bn = nn.BatchNorm2d(3)
        self.calls = 0

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        self.calls += 1
        x = self.bn(images)
        return (x, torch.cat([x, x**2], dim=1))


class Watching(MeanColour):
    """Notes in which mode it is asked: (BN in training mode, gradients wanted)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[bool, bool]] = set()

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        self.seen.add((self.bn.training, torch.is_grad_enabled()))
        return super().maps(images)


def loaded(module: registry.Backbone) -> LoadedBackbone:
    """As `load_backbone` would give it."""
    module = module.eval().requires_grad_(False)
    metadata = BackboneMetadata(backbone="mean_colour", method="test")
    return LoadedBackbone(module, metadata, "random:mean_colour", registry.fingerprint(module), "random")


@pytest.fixture
def mean_colour() -> LoadedBackbone:
    return loaded(MeanColour())


@pytest.fixture
def watching() -> LoadedBackbone:
    return loaded(Watching())


@pytest.fixture
def make_job(tmp_path: Path, mean_colour: LoadedBackbone) -> Callable[..., Job]:
    def make(
        task: str,
        protocol: str | None = None,
        changes: dict[str, object] | None = None,
        *,
        catalog: Catalog | None = None,
        backbone: LoadedBackbone | None = None,
        seed: int = 0,
        out: str = "out",
        data: str = "colours",
    ) -> Job:
        resolved: TaskProtocol = resolve_protocol(task, protocol, changes)
        catalog = catalog or FakeCatalog(train=coloured_set("train", 40), test=coloured_set("test", 20))
        directory = tmp_path / out
        directory.mkdir(exist_ok=True)
        return Job(
            backbone=backbone or mean_colour,
            catalog=catalog,
            data=data,
            protocol=resolved,
            seed=seed,
            device=torch.device("cpu"),
            out=directory,
            cache=tmp_path / "cache",
        )

    return make


# Protocols cut to seconds: which tensors a task asks the file for does not depend on how long it trains.
SHORT: dict[str, tuple[str | None, dict[str, object]]] = {
    "knn": (None, {"k": 2, "also_k": "[]"}),
    "linear": ("moco_v3", {"epochs": 1, "global_batch_size": 6}),
    "logreg": (None, {"grid_size": 2}),
    "semi": ("barlow_twins", {"percent": 10, "epochs": 1, "global_batch_size": 3}),
    "finetune": ("barlow_twins", {"epochs": 1, "global_batch_size": 6}),
    "svm": (None, {"costs": "[1.0]"}),
}


def several_labels(images: ImageSet) -> ImageSet:
    """The same pictures as a set in which an image may be of several classes, as svm wants it."""
    one_hot = np.eye(len(images.classes), dtype=bool)[images.labels]
    return ImageSet(images._source, name=images.name, split=images.split, classes=images.classes, labels=one_hot)


@pytest.fixture
def through_tasks(make_job: Callable[..., Job]) -> Callable[..., dict[str, float]]:
    """Takes a checkpoint file through the entry of each task on a tiny set; the main metric of each, in percent.

    `load_backbone` alone does not do: every task reads the file once more to prove that it measures the file's weights.
    `side`: of the pictures, in pixels; what the backbone needs.
    """

    def run_all(
        path: Path | str, *, side: int = 8, tasks: Iterable[str] = SHORT, **options: object
    ) -> dict[str, float]:
        sets = {split: coloured_set(split, 10, side=side) for split in ("train", "test")}
        measured = {}
        for name in tasks:
            protocol, changes = SHORT[name]
            if name == "svm":
                sets = {split: several_labels(images) for split, images in sets.items()}
            job = make_job(
                name,
                protocol,
                changes,
                catalog=FakeCatalog(**sets),
                backbone=load_backbone(path, **options),
                out=f"{Path(path).name}-{name}",
            )
            measured[name] = task.run(name, job)[0].value
        return measured

    return run_all
