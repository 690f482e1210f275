"""The loader of views: the same for any number of workers and ranks, and what it does with damaged images."""

from __future__ import annotations

import contextlib
import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.data.catalog import Catalog, ShapesEntry
from pretrain.data.images import ImageSet, Source
from pretrain.runtime.errors import InputError
from pretrain.views.settings import CIFAR, MOCO_V2, ViewsSpec
from pretrain.views.two_views import TwoViewLoader, two_view_loader

SMALL = MOCO_V2.model_copy(update={"size": 24})


def _shapes(count: int = 50, size: int = 32) -> ImageSet:
    return Catalog({"s": ShapesEntry(format="shapes", size=size, train=count)}).images("s", "train")


def _epoch(images: ImageSet, spec: ViewsSpec = SMALL, **given: int) -> list[tuple[torch.Tensor, ...]]:
    settings = {"batch_size_per_rank": 8, "seed": 4, "epoch": 1, **given}
    return list(two_view_loader(images, spec, **settings))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # eight workers on two cores
@pytest.mark.filterwarnings("ignore:This DataLoader will create 8 worker processes:UserWarning")  # on few cores
def test_views_do_not_depend_on_the_number_of_workers_or_a_resume() -> None:
    images = _shapes()
    reference = _epoch(images)
    assert len(reference) == 6  # 50 images: the last two are dropped
    assert len({int(i) for *_, index in reference for i in index}) == 48
    for other in (_epoch(images, workers=1), _epoch(images, workers=8)):
        for batch, same in zip(reference, other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))
    for batch, same in zip(reference[4:], _epoch(images, skip_batches=4), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))
    assert not torch.equal(reference[0][0], _epoch(images, epoch=2)[0][0])


def test_ranks_share_the_batches_that_one_rank_would_read() -> None:
    images = _shapes()
    whole = _epoch(images)
    parts = [_epoch(images, batch_size_per_rank=4, world_size=2, rank=rank) for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        for tensor, halves in zip(batch, zip(first, second, strict=True), strict=True):
            assert torch.equal(tensor, torch.cat(halves))


def test_three_views() -> None:
    one, two, three, index = _epoch(_shapes(), views=3)[0]
    assert one.shape == three.shape == (8, 3, 24, 24)
    assert index.shape == (8,)
    assert not torch.equal(two, three)


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    _epoch(_shapes(), workers=1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # type: ignore[index]


class _Flawed(Source):
    """Images of which some are damaged, and one may take its worker with it."""

    identity = "flawed"

    def __init__(self, count: int, damaged: tuple[int, ...], deadly: int | None = None, wrong: int | None = None):
        self.count, self.damaged, self.deadly, self.wrong = count, damaged, deadly, wrong
        buffer = io.BytesIO()
        Image.new("RGB", (12, 12), (9, 9, 9)).save(buffer, "JPEG")
        self.data = buffer.getvalue()

    def __len__(self) -> int:
        return self.count

    def encoded(self, row: int) -> bytes:
        if row == self.deadly:
            os._exit(7)
        if row == self.wrong:
            raise ZeroDivisionError("a fault of the program")
        return self.data[:50] if row in self.damaged else self.data

    def where(self, row: int) -> str:
        return f"image-{row}"


def _flawed(count: int, *damaged: int, **given: int) -> ImageSet:
    labels = np.zeros(count, dtype=np.int64)
    return ImageSet(_Flawed(count, damaged, **given), name="f", split="train", classes=("x",), labels=labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_stops_the_run_by_default(workers: int) -> None:
    with pytest.raises(InputError, match=r"^image image-5 does not decode \(50 bytes\)[^\n]*$"):
        _epoch(_flawed(40, 5), workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_skipped_when_asked(workers: int, caplog: pytest.LogCaptureFixture) -> None:
    images = _flawed(2000, 5, 6)
    spec = CIFAR.model_copy(update={"size": 8, "on_error": "skip"})
    loader = TwoViewLoader(images, spec, batch_size_per_rank=100, seed=0, epoch=0, workers=workers)
    with caplog.at_level("WARNING", logger="fastmoco"):
        seen = sorted(int(i) for *_, index in loader for i in index)
    assert seen == sorted([*(i for i in range(2000) if i not in (5, 6)), 7, 7])
    assert sorted(loader.damaged) == [5, 6]
    assert "2 damaged images were replaced by the next one: image image-5 does not decode" in caplog.text


def test_more_than_one_in_a_thousand_is_too_many() -> None:
    spec = CIFAR.model_copy(update={"size": 8, "on_error": "skip"})
    with pytest.raises(InputError, match=r"3 damaged images in epoch 1 are more than the 0.1 %"):
        _epoch(_flawed(2000, 5, 600, 1200), spec, batch_size_per_rank=500)


@pytest.mark.parametrize(("part", "stops"), [(0.02, True), (0.03, False)])
def test_the_part_that_may_be_skipped_can_be_set(part: float, stops: bool) -> None:
    spec = CIFAR.override({"size": 8, "on_error": "skip", "skip_at_most": part})
    with pytest.raises(InputError, match=r"than the 2 %.*views.skip_at_most") if stops else contextlib.nullcontext():
        _epoch(_flawed(40, 5), spec, batch_size_per_rank=40)


@pytest.mark.timeout(60)
def test_a_worker_that_dies_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match=r"worker.*exited unexpectedly"):
        _epoch(_flawed(40, deadly=20), workers=2)


@pytest.mark.timeout(60)
def test_a_fault_in_a_worker_shows_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match=r"(?s)in DataLoader worker process.*a fault of the program"):
        _epoch(_flawed(40, wrong=20), workers=2)


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(InputError, match="a global batch of 64 is larger than the data set s/train, which has 50"):
        _epoch(_shapes(), batch_size_per_rank=32, world_size=2, rank=0)
