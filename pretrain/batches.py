"""Which images a run trains on, and how many of them a rank has in a step."""

from __future__ import annotations

import numpy as np

from pretrain.data.images import ImageSet
from pretrain.data.splits import few
from pretrain.recipe import Recipe
from pretrain.runtime.errors import InputError


def training_images(recipe: Recipe, images: ImageSet) -> ImageSet:
    """The images that the recipe trains on: all, or `train_images` of them. InputError when there are not so many."""
    if recipe.train_images is None or recipe.train_images == len(images):
        return images
    if recipe.train_images > len(images):
        raise InputError(
            f"train_images is {recipe.train_images}, but '{images.name}' has {len(images)} in its {images.split} split"
        )
    labels = images.labels if images.labels.ndim == 1 else np.zeros(len(images), dtype=np.int64)
    return images.subset(few(labels, fraction=recipe.train_images / len(images), seed=0))


def batch_of_rank(recipe: Recipe, count: int, world_size: int) -> int:
    """How many of a step's images each rank has, where `count` images are trained on.

    Raises:
        InputError: naming the field, when images, ranks, batch and micro batch do not fit together.
    """
    batch = recipe.global_batch_size
    if batch > count:
        raise InputError(f"global_batch_size is {batch}, but there are only {count} images to train on")
    if batch % world_size:
        raise InputError(f"global_batch_size is {batch}, expected a multiple of the {world_size} ranks")
    if batch // world_size < 2:
        raise InputError(f"global_batch_size is {batch} on {world_size} ranks, expected at least 2 images a rank")
    micro = recipe.micro_batch_size
    if micro is not None and batch // world_size % micro:
        raise InputError(f"micro_batch_size is {micro}, expected a divisor of a rank's batch, {batch // world_size}")
    return batch // world_size
