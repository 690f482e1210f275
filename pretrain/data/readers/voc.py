"""PASCAL VOC trees: `ROOT/YEAR/{ImageSets/Main,Annotations,JPEGImages,SegmentationObject}`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from pretrain.data.entries import VocEntry
from pretrain.data.objects import ImageObject, ImageObjects, ObjectSet, checked_box
from pretrain.data.places import Places
from pretrain.data.readers.voc_lists import image_file, stems
from pretrain.runtime.errors import InputError, unknown

log = logging.getLogger("fastmoco")


def open_split(places: Places, name: str, entry: VocEntry, split: str) -> ObjectSet:
    """One split of a `voc` entry. Raises InputError as `read_voc` does."""
    return read_voc(places.resolve(entry.root), getattr(entry, split), entry.class_names(), name=name, split=split)


def read_voc(root: Path, lists: tuple[str, ...], classes: tuple[str, ...], *, name: str, split: str) -> ObjectSet:
    """The images of `lists` ("VOC2007/trainval", ...) with their objects, difficult ones included.

    VOC counts pixels from 1 and its corners belong to the box: (1, 1, W, H) is the whole image. A box one pixel wide or
    high comes from a slip of the mouse and is left out with a warning.

    Raises:
        InputError: a missing file, an XML file that cannot be read, a class that is not in `classes`, or a box outside
            its image, with file and line; or lists that name no image.
    """
    images: list[ImageObjects] = []
    slips: list[str] = []
    for listed in lists:
        year, _, list_name = listed.rpartition("/")
        folder = root / year
        images += [
            _read_image(folder, stem, f"{year}/{stem}" if year else stem, classes, name, slips)
            for stem in stems(folder / "ImageSets" / "Main" / f"{list_name}.txt", folder / "JPEGImages")
        ]
    if slips:
        log.warning("data set '%s': %d boxes without area are left out, the first at %s", name, len(slips), slips[0])
    has_masks = all(image.instances is not None for image in images)
    return ObjectSet(name, split, classes, tuple(images), has_masks)


@dataclass
class _Element:
    tag: str
    line: int
    text: str = ""
    children: list[_Element] = field(default_factory=list)

    def all(self, tag: str) -> Iterator[_Element]:
        return (child for child in self.children if child.tag == tag)


class _Annotation:
    """An XML file as elements that know their line, so that a mistake can be shown where it stands."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise InputError(f"no annotation at {path}") from None
        parser = expat.ParserCreate()
        self._open = [_Element("", 1)]
        parser.StartElementHandler = lambda tag, _: self._start(_Element(tag, parser.CurrentLineNumber))
        parser.EndElementHandler = lambda _: self._open.pop()
        parser.CharacterDataHandler = self._text
        try:
            parser.Parse(content, True)
        except expat.ExpatError as error:
            raise InputError(f"{path}:{error.lineno}: not valid XML: {expat.ErrorString(error.code)}") from None
        self.root = self._open[0].children[0]

    def _start(self, element: _Element) -> None:
        self._open[-1].children.append(element)
        self._open.append(element)

    def _text(self, text: str) -> None:
        self._open[-1].text += text

    def child(self, element: _Element, tag: str) -> _Element:
        found = next(element.all(tag), None)
        if found is None:
            raise InputError(f"{self.where(element)}: <{element.tag}> has no <{tag}>")
        return found

    def number(self, element: _Element, tag: str) -> float:
        child = self.child(element, tag)
        try:
            return float(child.text)
        except ValueError:
            raise InputError(f"{self.where(child)}: <{tag}> is '{child.text.strip()}', expected a number") from None

    def where(self, element: _Element) -> str:
        return f"{self.path}:{element.line}"


def _read_image(
    folder: Path, stem: str, image_id: str, classes: tuple[str, ...], name: str, slips: list[str]
) -> ImageObjects:
    annotation = _Annotation(folder / "Annotations" / f"{stem}.xml")
    size = annotation.child(annotation.root, "size")
    width, height = int(annotation.number(size, "width")), int(annotation.number(size, "height"))
    if width <= 0 or height <= 0:
        raise InputError(f"{annotation.where(size)}: the image's size is {width} x {height}")
    instances = folder / "SegmentationObject" / f"{stem}.png"
    has_instances = instances.is_file()
    objects = []
    # An object's value in the mask is its place in the file, from 1 (VOC development kit, section 3.2).
    for value, element in enumerate(annotation.root.all("object"), start=1):
        label = annotation.child(element, "name")
        if label.text.strip() not in classes:
            error = unknown(f"class of data set '{name}'", label.text.strip(), classes)
            raise InputError(f"{annotation.where(label)}: {error}")
        corners = annotation.child(element, "bndbox")
        x_min, y_min, x_max, y_max = (annotation.number(corners, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
        if x_max < x_min or y_max < y_min:
            raise InputError(f"{annotation.where(corners)}: xmax or ymax is less than xmin or ymin")
        slip = x_max == x_min or y_max == y_min
        box = checked_box((x_min - 1, y_min - 1, x_max, y_max), width, height, annotation.where(corners))
        if slip or box is None:
            slips.append(annotation.where(corners))
            continue
        difficult = next(element.all("difficult"), None)
        objects.append(
            ImageObject(
                category=classes.index(label.text.strip()),
                box=box,
                area=(box[2] - box[0]) * (box[3] - box[1]),
                difficult=difficult is not None and difficult.text.strip() == "1",
                instance=value if has_instances else None,
            )
        )
    path = image_file(folder / "JPEGImages", stem)
    return ImageObjects(image_id, path, width, height, tuple(objects), instances if has_instances else None)
