"""The two augmented views of an image (or three, for methods that take them), and batches of them.

Shapes: B batch, H W size. An image is decoded once for all its views. Every draw comes from (seed, epoch, sample
index, view), so views do not depend on the number of workers, and a resumed run sees what it would have seen.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from pretrain.data.images import ImageSet
from pretrain.runtime.errors import InputError
from pretrain.views import operations
from pretrain.views.draws import ViewDraw, draw_view
from pretrain.views.on_device import DeviceViews
from pretrain.views.settings import ViewsSpec

log = logging.getLogger("fastmoco")


class TwoViews:
    """Makes the views of an image: (3, size, size) each, float32 normalised or uint8 as the spec says.

    `views` is 2 unless said otherwise; a third view is drawn like the first.
    """

    def __init__(self, spec: ViewsSpec, seed: int, views: int = 2) -> None:
        self.spec, self.seed, self.views = spec, seed, views
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
        self._scale, self._shift = 1 / (255 * std), mean / std

    def __call__(self, images: ImageSet, index: int, epoch: int) -> tuple[Tensor, ...]:
        """The views of image `index` in `epoch`. Raises InputError, with the image's name, if it does not decode."""
        places = tuple(place[0] for place in self.empty(1))
        self.write(images.decode(index), index, epoch, places)
        return places

    def empty(self, count: int) -> tuple[Tensor, ...]:
        """Room for the views of `count` images: a (count, 3, size, size) for each view."""
        dtype = torch.uint8 if self.as_uint8 else torch.float32
        shape = (count, 3, self.spec.size, self.spec.size)
        return tuple(torch.empty(shape, dtype=dtype) for _ in range(self.views))

    @property
    def as_uint8(self) -> bool:
        """Whether the views leave as uint8, to be normalised on the device."""
        return self.spec.output == "uint8" or self.spec.where == "device"

    def write(self, image: np.ndarray, index: int, epoch: int, places: tuple[Tensor, ...]) -> None:
        """Write the views of a decoded image (H, W, 3) to their places (3, size, size)."""
        height, width = image.shape[:2]
        for view, place in enumerate(places):
            draw = draw_view(self.spec, self.seed, epoch, index, view, height, width)
            pixels = operations.crop_resize(image, draw.box, self.spec.size, self.spec.interpolation)
            if self.spec.where == "workers":
                pixels = augment(pixels, draw)
            place.copy_(torch.from_numpy(pixels).permute(2, 0, 1))
            if not self.as_uint8:
                place.mul_(self._scale).sub_(self._shift)


def augment(pixels: np.ndarray, draw: ViewDraw) -> np.ndarray:
    """uint8 (H, W, 3) -> the same: everything a draw asks for after the crop."""
    if draw.jitter is not None:
        for operation in draw.order:
            pixels = operations.JITTER[operation](pixels, draw.jitter[operation])
    if draw.gray:
        pixels = operations.grayscale(pixels)
    if draw.blur_sigma > 0:
        pixels = operations.blur(pixels, draw.blur_sigma)
    if draw.solarize:
        pixels = operations.solarize(pixels)
    return operations.flip(pixels) if draw.flip else pixels


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which an epoch reads `count` samples: a permutation that (seed, epoch) alone decide."""
    words = np.random.Philox(key=np.array([seed % 2**64, epoch], dtype=np.uint64)).random_raw(count)
    return np.argsort(words, kind="stable")


def padded(order: np.ndarray, length: int, seed: int, epoch: int) -> np.ndarray:
    """The samples of `order` and so many of them once more as make `length`, in an order of their own."""
    rng = np.random.default_rng([seed % 2**64, epoch, len(order)])
    again = rng.choice(order, length - len(order), replace=False)
    return rng.permutation(np.concatenate([order, again]))


class TwoViewLoader:
    """An iterable of (view1 (B, 3, H, W), view2, ..., index (B,)) over one epoch of one rank; `len` is its batches.

    Attributes:
        damaged: index -> reason of the images that did not decode and were skipped, filled as the epoch goes on.
    """

    def __init__(
        self,
        images: ImageSet,
        spec: ViewsSpec,
        *,
        batch_size_per_rank: int,
        seed: int,
        epoch: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        skip_batches: int = 0,
        views: int = 2,
        device: torch.device | None = None,
        pad: bool = False,
    ) -> None:
        global_batch = batch_size_per_rank * world_size
        if global_batch > len(images):
            raise InputError(
                f"a global batch of {global_batch} is larger than the data set {images.name}/{images.split}, "
                f"which has {len(images)} images"
            )
        assert 0 <= rank < world_size
        self.images, self.spec, self.epoch, self.workers = images, spec, epoch, workers
        self.damaged: dict[int, str] = {}
        self._device = device or torch.device("cpu")
        self._finish = DeviceViews(spec, seed) if spec.where == "device" else None
        self._dataset = _Batches(images, TwoViews(spec, seed, views), epoch)
        order = epoch_order(len(images), seed, epoch)
        batches = len(images) // global_batch
        if pad and batches * global_batch < len(images):
            batches += 1
            order = padded(order, batches * global_batch, seed, epoch)
        # One global batch after the other, so that the samples of a step do not depend on how many ranks share it.
        of_rank = order[: batches * global_batch].reshape(batches, world_size, batch_size_per_rank)[:, rank]
        self._allowed = spec.skip_at_most * of_rank.size
        self._batches = of_rank[skip_batches:]

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        # Workers are the parallelism. Said before they fork, not in them: a forked worker inherits OpenCV's pool of
        # threads without the threads, and waits for them for ever.
        cv2.setNumThreads(1)
        loader: DataLoader[Any] = DataLoader(
            self._dataset,
            batch_sampler=[batch.tolist() for batch in self._batches],
            collate_fn=_as_it_is,
            num_workers=self.workers,
            pin_memory=torch.cuda.is_available(),
            # Every draw has its own seed; the loader's base seed must not move the global generator.
            generator=torch.Generator(),
        )
        for planned, (*batch, index, damaged) in zip(self._batches, loader, strict=True):
            self._note(damaged)
            if self._finish is not None:
                crops = [view.to(self._device, non_blocking=True) for view in batch]
                # A replaced image keeps the draws of the one it stands for, as it does on workers.
                batch = [self._finish(crop, planned.tolist(), self.epoch, view) for view, crop in enumerate(crops)]
            yield (*batch, index)
        if self.damaged:
            log.warning(
                "epoch %d: %d damaged images were replaced by the next one: %s",
                *(self.epoch, len(self.damaged), "; ".join(self.damaged[index] for index in sorted(self.damaged))),
            )

    def _note(self, damaged: dict[int, str]) -> None:
        self.damaged |= damaged
        if damaged and self.spec.on_error == "stop":
            raise InputError(damaged[min(damaged)])
        if len(self.damaged) > self._allowed:
            listed = "; ".join(self.damaged[index] for index in sorted(self.damaged)[:10])
            raise InputError(
                f"{len(self.damaged)} damaged images in epoch {self.epoch} are more than the "
                f"{100 * self.spec.skip_at_most:g} % that `on_error: skip` allows (views.skip_at_most): {listed}"
            )


def two_view_loader(
    images: ImageSet,
    spec: ViewsSpec,
    *,
    batch_size_per_rank: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    skip_batches: int = 0,
    views: int = 2,
    device: torch.device | None = None,
    pad: bool = False,
) -> TwoViewLoader:
    """Batches of two views, (view1 (B, 3, H, W), view2, index (B,)); the last incomplete batch is dropped.

    With `pad` it is filled: as many other images as it lacks stand twice in the epoch, in random places. Both times
    such an image has the same views, since draws belong to (seed, epoch, index).

    With `views=3` a third view stands before the index. Where the spec says `where: device`, workers only decode and
    crop; the rest is done here, on `device` (the CPU when not given), and the views are on that device.

    The order is a permutation from (seed, epoch), the same for any number of workers; `skip_batches` leaves out the
    first ones without reading them, for a run that resumes in the middle of an epoch.

    Raises:
        InputError: the global batch is larger than the set; while iterating: an image that does not decode, or too
            many of them when the spec says to skip. An error in a worker is raised here with its traceback; a worker
            that is killed ends the iteration with an error.
    """
    return TwoViewLoader(
        images,
        spec,
        batch_size_per_rank=batch_size_per_rank,
        seed=seed,
        epoch=epoch,
        rank=rank,
        world_size=world_size,
        workers=workers,
        skip_batches=skip_batches,
        views=views,
        device=device,
        pad=pad,
    )


class _Batches(Dataset[Any]):
    """Asked for a list of indices, gives the finished batch: views are written where they will be sent from."""

    def __init__(self, images: ImageSet, views: TwoViews, epoch: int) -> None:
        self.images, self.views, self.epoch = images, views, epoch

    def __getitems__(self, indices: list[int]) -> tuple[Tensor | dict[int, str], ...]:
        places = self.views.empty(len(indices))
        if get_worker_info() is not None:
            # Shared while they are empty: the loader would copy finished views there, a quarter of the cost more.
            for room in places:
                room.share_memory_()
        used = torch.empty(len(indices), dtype=torch.int64)
        damaged: dict[int, str] = {}
        for place, index in enumerate(indices):
            image, used_index = self._decode(index, damaged)
            if image is None:
                break  # the batch is thrown away: the loader raises what `damaged` says
            used[place] = used_index
            self.views.write(image, index, self.epoch, tuple(room[place] for room in places))
        return *places, used, damaged

    def _decode(self, index: int, damaged: dict[int, str]) -> tuple[np.ndarray | None, int]:
        # A damaged image is replaced by the next one that is whole, a choice that no worker or order can change.
        for candidate in itertools.chain(range(index, len(self.images)), range(index)):
            try:
                return self.images.decode(candidate), candidate
            except InputError as error:
                damaged[candidate] = str(error)
                if self.views.spec.on_error == "stop" or len(damaged) > self.views.spec.skip_at_most * len(self.images):
                    break
        return None, index


def _as_it_is(batch: Any) -> Any:
    return batch
