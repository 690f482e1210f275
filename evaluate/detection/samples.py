"""Images and objects as detectron2 takes them. Every draw is a function of (seed, epoch, image), so that no number of
workers changes a result and a resumed run sees what it would have seen.

Nothing is registered in detectron2's catalogs of data sets and metadata: they are global, and nothing here needs them.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from PIL import Image
from pycocotools import mask as run_lengths
from torch.utils.data import DataLoader, Dataset

from evaluate.protocols.detector import DetectionProtocol
from pretrain.data.looked_at import read_instances
from pretrain.data.objects import ImageObject, ImageObjects, ObjectSet
from pretrain.runtime.errors import InputError

Draw = tuple[int, int]  # (epoch, image)
_ORDER, _VIEW = 0, 1  # streams of random numbers; `training` has another


def trainable(objects: ObjectSet) -> ObjectSet:
    """The images that hold an object to learn from (detectron2's FILTER_EMPTY_ANNOTATIONS).

    Raises:
        InputError: there is none.
    """
    taught = objects.taught()
    if not taught.any():
        raise InputError(f"data set '{objects.name}', split '{objects.split}': no image holds an object to learn from")
    return objects if taught.all() else objects.subset(np.flatnonzero(taught))


class TrainingImages(Dataset):
    """`[(epoch, image)]` -> detectron2's dict: pixels, and the boxes (and masks) that are seen in them."""

    def __init__(self, objects: ObjectSet, protocol: DetectionProtocol, channels: str, seed: int) -> None:
        self.objects, self.protocol, self.channels, self.seed = objects, protocol, channels, seed
        # Polygons are kept where all masks are polygons, as in COCO: cutting them to a box is then exact.
        self.mask_format = "polygon" if objects.only_polygons() else "bitmask"

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        epoch, index = draw
        image = self.objects.images[index]
        rng = np.random.default_rng([_VIEW, self.seed, epoch, index])
        edge = self.protocol.min_sizes_train[int(rng.integers(len(self.protocol.min_sizes_train)))]
        pixels = read_pixels(image, self.channels)
        steps = [resizing(image.height, image.width, edge, self.protocol.max_size_train)]
        if self.protocol.flip and rng.random() < 0.5:
            steps.append(T.HFlipTransform(steps[0].new_w))
        transforms = T.TransformList(steps)
        size = (steps[0].new_h, steps[0].new_w)
        instances = read_instances(image) if self.protocol.masks and image.instances else None
        annotations = [
            detection_utils.transform_instance_annotations(self._annotation(image, thing, instances), transforms, size)
            for thing in image.objects
            if not thing.crowd
        ]
        targets = detection_utils.annotations_to_instances(annotations, size, self.mask_format)
        return {
            **as_sample(image, transforms.apply_image(pixels)),
            "instances": detection_utils.filter_empty_instances(targets),
        }

    def _annotation(self, image: ImageObjects, thing: ImageObject, instances: np.ndarray | None) -> dict[str, Any]:
        found = {"bbox": list(thing.box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": thing.category}
        if self.protocol.masks:
            found["segmentation"] = segmentation(image, thing, instances, polygons=self.mask_format == "polygon")
        return found


class TestImages(Dataset):
    """Image number -> detectron2's dict, at the protocol's test size."""

    __test__ = False

    def __init__(self, objects: ObjectSet, protocol: DetectionProtocol, channels: str) -> None:
        self.objects, self.protocol, self.channels = objects, protocol, channels

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.objects.images[index]
        resize = resizing(image.height, image.width, self.protocol.min_size_test, self.protocol.max_size_test)
        return as_sample(image, resize.apply_image(read_pixels(image, self.channels)))


def segmentation(image: ImageObjects, thing: ImageObject, instances: np.ndarray | None, *, polygons: bool) -> Any:
    """An object's mask as COCO's polygons, or as run lengths of the whole image; None where it has none."""
    if thing.instance is not None and instances is not None:
        return run_lengths.encode(np.asfortranarray((instances == thing.instance).astype(np.uint8)))
    given = thing.segmentation
    if isinstance(given, list):
        # A polygon of less than three corners has no area; COCO holds some.
        given = [polygon for polygon in given if len(polygon) >= 6 and len(polygon) % 2 == 0]
        if polygons or not given:
            return given
        return run_lengths.merge(run_lengths.frPyObjects(given, image.height, image.width))
    if isinstance(given, dict) and isinstance(given["counts"], list):
        return run_lengths.frPyObjects(given, image.height, image.width)
    return given


def read_pixels(image: ImageObjects, channels: str) -> np.ndarray:
    """uint8 (H, W, 3) in the order `channels`.

    Raises:
        InputError: the file is damaged, or its size is not what its annotation says.
    """
    pixels = image.pixels()
    return np.ascontiguousarray(pixels[:, :, ::-1]) if channels == "BGR" else pixels


def resizing(height: int, width: int, edge: int, longest: int) -> T.ResizeTransform:
    """To a shorter edge of `edge` pixels, unless the longer one would pass `longest`; bilinear."""
    scale = min(edge / min(height, width), longest / max(height, width))
    new_height, new_width = (int(pixels * scale + 0.5) for pixels in (height, width))
    return T.ResizeTransform(height, width, new_height, new_width, Image.Resampling.BILINEAR)


def as_sample(image: ImageObjects, pixels: np.ndarray) -> dict[str, Any]:
    """detectron2's dict of an image: (3, H, W) uint8, and the size that predictions are scaled back to."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return {"image": tensor, "height": image.height, "width": image.width, "image_id": image.image_id}


def order(objects: ObjectSet, seed: int, rank: int, world_size: int) -> Iterator[Draw]:
    """What a rank sees, without end: each epoch a permutation from (seed, epoch), dealt to the ranks in turn."""
    number = itertools.count()
    for epoch in itertools.count():
        for index in np.random.default_rng([_ORDER, seed, epoch]).permutation(len(objects)).tolist():
            if next(number) % world_size == rank:
                yield epoch, index


def batches(
    objects: ObjectSet, per_rank: int, seed: int, *, rank: int = 0, world_size: int = 1
) -> Iterator[list[Draw]]:
    """Batches of landscapes and of portraits, as they fill (detectron2's ASPECT_RATIO_GROUPING), without end."""
    waiting: tuple[list[Draw], list[Draw]] = ([], [])
    sizes = objects.sizes()
    landscape = (sizes[:, 0] > sizes[:, 1]).astype(int).tolist()
    for draw in order(objects, seed, rank, world_size):
        group = waiting[landscape[draw[1]]]
        group.append(draw)
        if len(group) == per_rank:
            yield group[:]
            group.clear()


def loader(
    images: TrainingImages, per_rank: int, start: int, end: int, rank: int, world_size: int, device: torch.device
) -> DataLoader:
    """Batches `start` to `end` of a rank as lists of dicts; those before are passed over without reading an image."""
    chosen = batches(images.objects, per_rank, images.seed, rank=rank, world_size=world_size)
    workers = 0 if device.type == "cpu" else min(8, os.cpu_count() or 1)
    wanted = itertools.islice(chosen, start, end)
    return DataLoader(images, batch_sampler=wanted, num_workers=workers, collate_fn=list)  # type: ignore[arg-type]
