"""PASCAL VOC as a multi-label classification set: which of the classes an image shows.

A class is present when one object of it is not flagged difficult; where all its objects are difficult, neither yes nor
no is counted (VOC2007 development kit, section 4.1; VISSL's VOC07 uses the same three values).
"""

from __future__ import annotations

import numpy as np

from pretrain.data.content import file_identity
from pretrain.data.entries import VocEntry
from pretrain.data.images import ImageSet
from pretrain.data.places import Places
from pretrain.data.readers.imagefolder import Files
from pretrain.data.readers.voc import open_split as open_objects
from pretrain.runtime.files import canonical_hash


def open_split(places: Places, name: str, entry: VocEntry, split: str) -> ImageSet:
    """One split with labels bool (N, K) and `ignored` bool (N, K). Raises InputError as the VOC reader does."""
    found = open_objects(places, name, entry, split)
    root = places.resolve(entry.root)
    labels = np.zeros((len(found), len(found.classes)), dtype=bool)
    difficult = np.zeros_like(labels)
    for row, image in enumerate(found.images):
        for item in image.objects:
            (difficult if item.difficult else labels)[row, item.category] = True
    names = np.array([str(image.path.relative_to(root)).encode() for image in found.images])
    lists = [
        file_identity(root / part.rpartition("/")[0] / "ImageSets" / "Main" / f"{part.rpartition('/')[2]}.txt")
        for part in getattr(entry, split)
    ]
    source = Files(root, names, canonical_hash(lists))
    return ImageSet(
        source,
        name=name,
        split=split,
        classes=found.classes,
        labels=labels,
        ignored=difficult & ~labels,
    )
