"""The generated set `scenes`: some shapes an image, written as a PASCAL VOC tree with boxes, instance and class masks.

Image i of a split derives from (seed, split, i). Shapes are those of `pretrain.data.generated.shapes`; a later one may
hide part of an earlier one, and masks and boxes are those of the part that is seen.
"""

from __future__ import annotations

import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from filelock import FileLock
from PIL import Image

from pretrain.data.entries import ScenesEntry
from pretrain.data.generated import shapes
from pretrain.data.generated.sets import image_rng
from pretrain.data.generated.shapes import CLASSES
from pretrain.data.images import ImageSet, unlabelled
from pretrain.data.objects import ObjectSet
from pretrain.data.places import Places
from pretrain.data.readers.imagefolder import Files
from pretrain.data.readers.masks import MaskSet, voc_palette
from pretrain.data.readers.voc import read_voc
from pretrain.data.readers.voc_masks import read_voc_masks
from pretrain.runtime.cache import cache_root
from pretrain.runtime.files import canonical_hash
from pretrain.runtime.progress import progress

VERSION = 1  # to be raised with any change of a pixel or a box
MOST_OBJECTS = 5
_STREAM = 2**63  # added to the seed: no scene shares its random numbers with an image of `shapes`
_TRIES = 20
_LEAST_SEEN = 0.6  # share of a shape's pixels that must stay visible


@dataclass(frozen=True)
class Scene:
    """An image and what is in it.

    Attributes:
        image: uint8 (size, size, 3) RGB.
        categories: index into `CLASSES` of each object, in the order of drawing.
        instances: uint8 (size, size); 0 is background, i the i-th object, counted from 1.
    """

    image: np.ndarray
    categories: tuple[int, ...]
    instances: np.ndarray

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """(x0, y0, x1, y1) of each object between pixel edges, tight around what is seen of it."""
        return [_tight(self.instances == value) for value in range(1, len(self.categories) + 1)]

    def class_mask(self) -> np.ndarray:
        """uint8 (size, size): 0 background, else 1 + category."""
        return np.array([0, *(1 + category for category in self.categories)], dtype=np.uint8)[self.instances]


def draw_scene(size: int, rng: np.random.Generator) -> Scene:
    """One to `MOST_OBJECTS` shapes on a cluttered background of size x size pixels."""
    canvas = shapes.draw_background(size, size, rng)
    instances = np.zeros((size, size), dtype=np.uint8)
    categories: list[int] = []
    areas: list[int] = []
    wanted = 1 + int(rng.random() * MOST_OBJECTS)
    for _ in range(_TRIES):
        if len(categories) == wanted:
            break
        kind, x, y, radius, angle = rng.random(5).tolist()
        category = int(kind * len(CLASSES))
        pose = shapes.Pose(
            x=size * (0.12 + 0.76 * x),
            y=size * (0.12 + 0.76 * y),
            radius=size * (0.09 + 0.10 * radius),
            angle=2 * np.pi * angle,
        )
        trial = canvas.copy()
        mask = shapes.draw_shape(trial, category, pose, rng)
        seen = np.where(mask, np.uint8(len(categories) + 1), instances)
        left = np.bincount(seen.ravel(), minlength=len(categories) + 2)[1:]
        if any(count < _LEAST_SEEN * area for count, area in zip(left, [*areas, 2 * pose.radius**2], strict=True)):
            continue
        canvas, instances = trial, seen
        categories.append(category)
        areas.append(int(mask.sum()))
    return Scene(shapes.add_noise(canvas, rng), tuple(categories), instances)


def default_root() -> Path:
    """Where scenes lie unless a folder is named: in the cache."""
    return cache_root() / "scenes"


def materialise_scenes(entry: ScenesEntry, root: Path) -> Path:
    """Write the VOC tree of `entry` into a folder of its own under `root`, unless it is there; returns that folder.

    The folder appears whole or not at all; processes that ask at the same time wait for the first.
    """
    splits = {split: count for split in entry.splits() if (count := getattr(entry, split))}
    key = canonical_hash([VERSION, shapes.VERSION, entry.size, entry.seed, sorted(splits.items())])
    folder = Path(root) / key[:32]
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.is_dir():
            scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:8]}."))
            try:
                _write_tree(entry, splits, scratch)
                scratch.chmod(0o755)
                scratch.rename(folder)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return folder


def open_split(places: Places, name: str, entry: ScenesEntry, split: str) -> ObjectSet:
    """One split with its boxes and masks; writes the tree at the first use."""
    return read_voc(materialise_scenes(entry, default_root()), (split,), CLASSES, name=name, split=split)


def open_masks(places: Places, name: str, entry: ScenesEntry, split: str) -> MaskSet:
    """One split with its class masks; writes the tree at the first use."""
    return read_voc_masks(materialise_scenes(entry, default_root()), (split,), CLASSES, name=name, split=split)


def open_pictures(places: Places, name: str, entry: ScenesEntry, split: str) -> ImageSet:
    """The images of one split without boxes and masks, to pretrain on; writes the tree at the first use."""
    names = [f"{split}_{index:06d}.jpg".encode() for index in range(getattr(entry, split))]
    source = Files(materialise_scenes(entry, default_root()) / "JPEGImages", np.array(names))
    return unlabelled(source, name=name, split=split)


def _write_tree(entry: ScenesEntry, splits: dict[str, int], folder: Path) -> None:
    for place in ("Annotations", "JPEGImages", "SegmentationClass", "SegmentationObject"):
        (folder / place).mkdir()
    palette = [value for colour in voc_palette(256) for value in colour]
    with progress("draw scenes", sum(splits.values())) as bar:
        for split, count in splits.items():
            stems = [f"{split}_{index:06d}" for index in range(count)]
            for index, stem in enumerate(stems):
                scene = draw_scene(entry.size, image_rng(_STREAM + entry.seed, split, index))
                jpeg = [cv2.IMWRITE_JPEG_QUALITY, 95]
                cv2.imwrite(str(folder / "JPEGImages" / f"{stem}.jpg"), scene.image[..., ::-1], jpeg)
                (folder / "Annotations" / f"{stem}.xml").write_bytes(_annotation(stem, entry.size, scene))
                for place, mask in (("SegmentationClass", scene.class_mask()), ("SegmentationObject", scene.instances)):
                    picture = Image.fromarray(mask)
                    picture.putpalette(palette)
                    picture.save(folder / place / f"{stem}.png")
                bar.advance()
            for place in ("Main", "Segmentation"):
                listing = folder / "ImageSets" / place / f"{split}.txt"
                listing.parent.mkdir(parents=True, exist_ok=True)
                listing.write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")


def _annotation(stem: str, size: int, scene: Scene) -> bytes:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "folder").text = "scenes"
    ElementTree.SubElement(root, "filename").text = f"{stem}.jpg"
    extent = ElementTree.SubElement(root, "size")
    for tag, pixels in (("width", size), ("height", size), ("depth", 3)):
        ElementTree.SubElement(extent, tag).text = str(pixels)
    ElementTree.SubElement(root, "segmented").text = "1"
    for category, (x0, y0, x1, y1) in zip(scene.categories, scene.boxes(), strict=True):
        element = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(element, "name").text = CLASSES[category]
        ElementTree.SubElement(element, "difficult").text = "0"
        corners = ElementTree.SubElement(element, "bndbox")
        # VOC counts pixels from 1, and its corners belong to the box.
        for tag, value in (("xmin", x0 + 1), ("ymin", y0 + 1), ("xmax", x1), ("ymax", y1)):
            ElementTree.SubElement(corners, tag).text = str(value)
    ElementTree.indent(root)
    return ElementTree.tostring(root)


def _tight(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
