"""An ImageNet of one picture, so that real code paths count the real set's steps."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pretrain.data.images import ImageSet, Source

IMAGENET, ONE_PERCENT = 1_281_167, 12_811


class OnePicture(Source):
    """The same 60x45 picture under every row."""

    def __init__(self, n: int) -> None:
        stream = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8)).save(stream, "PNG")
        self.file, self.n, self.identity = stream.getvalue(), n, f"one-{n}"

    def __len__(self) -> int:
        return self.n

    def encoded(self, row: int) -> bytes:
        return self.file

    def where(self, row: int) -> str:
        return f"picture {row}"


def of_size(n: int) -> ImageSet:
    """n images of 1000 classes."""
    labels = np.arange(n, dtype=np.int64) % 1000
    return ImageSet(OnePicture(n), name="big", split="train", classes=[f"c{i}" for i in range(1000)], labels=labels)


@pytest.fixture(scope="session")
def imagenet() -> ImageSet:
    return of_size(IMAGENET)


@pytest.fixture(scope="session")
def one_percent() -> ImageSet:
    return of_size(ONE_PERCENT)
