"""VOC's class masks: `YEAR/{ImageSets/Segmentation,JPEGImages,SegmentationClass,SegmentationClassAug}`.

VOC12aug, the training set of most published numbers, adds SBD's masks. Two layouts of it are about: in
mmsegmentation's `SegmentationClassAug` holds SBD's masks for the list `aug`, and `SegmentationClass` VOC's own; in
DeepLab's it holds masks for the whole of `trainaug`. One rule serves both: an image has its official mask where VOC has
one, and SBD's only otherwise; images that are measured on have official masks, or the set is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pretrain.data.entries import VocEntry
from pretrain.data.places import Places
from pretrain.data.readers.mask_values import IGNORE, in_rising_order
from pretrain.data.readers.masks import MaskSet, mask_set, voc_palette
from pretrain.data.readers.voc_lists import image_file, stems
from pretrain.runtime.errors import InputError


def open_split(places: Places, name: str, entry: VocEntry, split: str) -> MaskSet:
    """One split of a `voc` entry, with its class masks. Raises InputError as `read_voc_masks` does."""
    root, lists = places.resolve(entry.root), getattr(entry, split)
    return read_voc_masks(root, lists, entry.class_names(), name=name, split=split)


def read_voc_masks(root: Path, lists: Sequence[str], objects: Sequence[str], *, name: str, split: str) -> MaskSet:
    """The images of `lists` ("VOC2007/trainval", ...); the classes are the background and then `objects`.

    Raises:
        InputError: a missing list, an image that is missing, listed twice or without a mask, or one to measure on that
            has none of VOC's own: each is named.
    """
    pairs = []
    for given in lists:
        year, _, part = given.rpartition("/")
        home = root / year
        listing = home / "ImageSets" / "Segmentation" / f"{part}.txt"
        if not listing.is_file():
            raise InputError(f"data set '{name}', split '{split}': no list at {listing}, which segmentation needs")
        images = home / "JPEGImages"
        for stem in stems(listing, images):
            official, extra = home / "SegmentationClass" / f"{stem}.png", home / "SegmentationClassAug" / f"{stem}.png"
            if split != "train" and not official.is_file() and extra.is_file():
                raise InputError(
                    f"data set '{name}', split '{split}': '{stem}' of {listing} has no mask of VOC's own at "
                    f"{official}; {extra} is SBD's, which is for training alone"
                )
            has_extra_alone = not official.is_file() and extra.is_file()
            pairs.append((image_file(images, stem), extra if has_extra_alone else official))
    classes = ("background", *objects)
    values, palette = in_rising_order(name, classes, IGNORE), voc_palette(len(classes))
    return mask_set(name, split, classes, values, palette, pairs, f"nothing in the lists under {root}")
