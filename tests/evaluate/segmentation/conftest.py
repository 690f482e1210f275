"""A tiny set that the tests draw themselves, and jobs on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from evaluate.checkpoints.load import load_backbone
from evaluate.protocols.segmentation import PROTOCOLS
from evaluate.task import Job
from pretrain.data.catalog import Catalog

CLASSES = ("ground", "disc", "square")
IGNORED = 9


def draw(root: Path, split: str, count: int, seed: int) -> None:
    """Images of 48x64 with a red disc and a blue square on green; a border of pixels that do not count."""
    images, masks = root / split, root / f"{split}_masks"
    images.mkdir(parents=True)
    masks.mkdir()
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :64]
    for number in range(count):
        mask = np.zeros((48, 64), np.uint8)
        cy, cx, r = rng.integers(12, 36), rng.integers(12, 26), rng.integers(6, 11)
        mask[(y - cy) ** 2 + (x - cx) ** 2 <= r**2] = 1
        top, left = rng.integers(4, 24), rng.integers(38, 46)
        mask[top : top + 14, left : left + 14] = 2
        picture = np.array([[40, 120, 40], [200, 40, 40], [40, 40, 200]], np.int64)[mask]
        picture = (picture + rng.integers(-30, 31, picture.shape)).clip(0, 255).astype(np.uint8)
        mask[0] = IGNORED
        Image.fromarray(picture).save(images / f"{number:02}.png")
        Image.fromarray(mask).save(masks / f"{number:02}.png")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog file of the set `tiny`: 12 training and 5 test images, 3 classes."""
    root = tmp_path_factory.mktemp("tiny")
    draw(root, "train", 12, seed=0)
    draw(root, "test", 5, seed=1)
    catalog = root / "catalog.yaml"
    catalog.write_text(
        "tiny: {format: masks, train: {images: train, masks: train_masks}, test: {images: test, masks: test_masks}, "
        f"classes: [{', '.join(CLASSES)}], ignore: {IGNORED}}}\n"
    )
    return catalog


@pytest.fixture
def job(tiny: Path, tmp_path: Path) -> Callable[..., Job]:
    """job(protocol, ref=..., seed=..., out=..., **changes) -> a Job on `tiny` on the processor."""

    def make(
        protocol: str, *, ref: str = "random:cifar_resnet20", seed: int = 0, out: Path | None = None, **changes: Any
    ):
        return Job(
            backbone=load_backbone(ref, seed=3),
            catalog=Catalog.load(tiny),
            data="tiny",
            protocol=PROTOCOLS[protocol].override({"crop": 32, "slide_stride": 24, "global_batch_size": 4, **changes}),
            seed=seed,
            device=torch.device("cpu"),
            out=out or tmp_path / "run",
            cache=tmp_path / "cache",
        )

    return make
