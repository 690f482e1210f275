"""What a data catalog may say: one frozen model a format. Importing this module needs neither torch nor numpy.

Paths are relative to the catalog's file; `Catalog.resolve` makes them absolute.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, field_validator, model_validator

from pretrain.data.names import MAX_PIXELS
from pretrain.data.torchvision_facts import facts
from pretrain.runtime.settings import Later, Settings

SPLITS = ("train", "val", "test")


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _names(value: Any) -> Any:
    """Class names as they were meant: what YAML makes of some is told, since no file can be matched with `False`."""
    for name in value if isinstance(value, list | tuple) else ():
        if not isinstance(name, str):
            kind = {bool: "true or false", type(None): "nothing"}.get(type(name), "a number or a date")
            raise ValueError(f"a class name is written so that YAML reads it as {kind} ({name}): put it in quotes")
    return value


# One path, or several; `*` and `{00..12}` are filled in when the set is opened.
Paths = Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
# How many classes there are (checked against what is found), or their names in the order of the labels.
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Classes = Annotated[Annotated[int, Field(ge=1)] | tuple[str, ...] | None, BeforeValidator(_names)]
# A value in a mask file: a number, or a colour as [R, G, B] or "#rrggbb"; and what the values of a set stand for.
MaskValue = int | tuple[int, int, int] | str
MaskMeaning = tuple[MaskValue, ...] | dict[int | str, int | str | None] | str


class SplitEntry(Settings):
    """Base of the formats whose splits stand in the catalog as `train`, `val` and `test`; at least one is there.

    Attributes:
        format: which of the formats.
        train, val, test: where the split lies (of a generated set: how many images it has).
        classes: how many there are, checked against what is found, or their names in the order of the labels.
        root: the folder that the other paths are relative to.
    """

    @model_validator(mode="after")
    def _some_split(self) -> SplitEntry:
        if not self.splits():
            raise ValueError("no split: expected at least one of train, val, test")
        return self

    def splits(self) -> tuple[str, ...]:
        """The names of the splits that the entry has."""
        return tuple(split for split in SPLITS if getattr(self, split, None))


class ImagesEntry(SplitEntry):
    """Base of the formats of images with labels or without.

    Attributes:
        max_pixels: width times height of the largest image that is decoded, a guard against files that unpack to more
            than the memory holds; the same for every image format.
    """

    max_pixels: Annotated[Annotated[int, Field(ge=1)], Later(before=MAX_PIXELS)] = MAX_PIXELS


class ParquetEntry(ImagesEntry):
    """Hugging Face's image layout: a column `image: struct{bytes, path}` and a column `label`.

    Labels are whole numbers, texts (class names), or lists of either for several an image; none, for pretraining.

    Attributes:
        image_column, label_column: what the two are called in the files.
    """

    format: Literal["parquet"]
    train: Paths | None = None
    val: Paths | None = None
    test: Paths | None = None
    classes: Classes = None
    image_column: str = "image"
    label_column: str = "label"


class ImageFolderEntry(ImagesEntry):
    """One folder a class: `train/CLASS/**/*.jpg`. The classes are those of `train`, in sorted order."""

    format: Literal["imagefolder"]
    train: str | None = None
    val: str | None = None
    test: str | None = None
    classes: Classes = None


class FileListEntry(ImagesEntry):
    """Lists of images, relative to `root`: `CLASS/name.jpg`, or `name.jpg LABEL` with a number or a class name.

    Columns may be separated by tabs, commas or semicolons, with a header or without, in UTF-8 or UTF-16; `.json`,
    `.jsonl` and `.parquet` are read as well. Several labels an image: `cat|dog`, `3 7`, a list in JSON or Parquet, or a
    header with a column of 0 and 1 for each class. A list of names alone is for pretraining.
    `imagenet:1percent` and `imagenet:10percent` are SimCLR's lists, which are part of this package.

    Attributes:
        image_column, label_column: what the two are called in a header, where the names are not of the usual ones.
    """

    format: Literal["filelist"]
    root: str
    train: str | None = None
    val: str | None = None
    test: str | None = None
    classes: Classes = None
    image_column: Annotated[str | None, Later(before=None)] = None
    label_column: Annotated[str | None, Later(before=None)] = None


class TarEntry(ImagesEntry):
    """WebDataset's shards, plain or compressed: files `KEY.jpg` (or another image suffix) with the label beside them.

    A label is a number or a class name in `KEY.cls`, `KEY.json` or `KEY.txt`; shards without are for pretraining.

    Attributes:
        label_field: which of them: `cls`, `txt`, `json`, or `json:KEY` for one key of the JSON. Without it the first
            that holds labels: `.cls`; `.json` with a key `label`, `labels`, `cls`, `class`, `class_id`, `class_name`,
            `target` or `category`; `.txt` when all are numbers or in `classes`, since captions are written there too.
    """

    format: Literal["tar"]
    train: Paths | None = None
    val: Paths | None = None
    test: Paths | None = None
    classes: Classes = None
    label_field: Annotated[Annotated[str, Field(pattern=r"^(cls|txt|json|json:.+)$")] | None, Later(before=None)] = None


class TorchvisionEntry(Settings):
    """A set that torchvision knows, by the names of `pretrain.data.torchvision_facts.SETS`.

    `partition` picks one of the official partitions of the sets that have several (DTD and SUN397: 1 to 10);
    `join_val` makes train the official train and val together, for the last training of a transfer protocol.

    Attributes:
        format: which of the formats.
        name: torchvision's.
        root: the folder torchvision keeps its sets in.
        download: fetch the set when it is not there.
    """

    format: Literal["torchvision"]
    name: str
    root: str
    download: bool = False
    partition: Annotated[int, Field(ge=1, le=10)] = 1
    join_val: bool = False

    def splits(self) -> tuple[str, ...]:
        """The splits that the set's table names."""
        return facts(self.name).splits()

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return facts(name).name


class VocEntry(SplitEntry):
    """PASCAL VOC layout: `YEAR/split` names `root/YEAR/ImageSets/Main/split.txt`. `classes: voc` means its 20."""

    format: Literal["voc"]
    root: str
    train: Paths | None = None
    val: Paths | None = None
    test: Paths | None = None
    classes: Annotated[Literal["voc"] | tuple[str, ...], BeforeValidator(_names)] = "voc"

    def class_names(self) -> tuple[str, ...]:
        """The classes by name, in the order of their labels."""
        return VOC_CLASSES if self.classes == "voc" else self.classes


class CocoSplit(Settings):
    """A folder of images and the JSON that describes them.

    Attributes:
        images, json: the two, relative to the catalog.
    """

    images: str
    json_file: str = Field(alias="json")


class CocoEntry(SplitEntry):
    """COCO's JSON: boxes, and masks where the file has them. The classes are the file's categories."""

    format: Literal["coco"]
    train: CocoSplit | None = None
    val: CocoSplit | None = None
    test: CocoSplit | None = None


class MasksSplit(Settings):
    """A folder of images and one of masks, both searched with their subfolders; names agree but for the suffix.

    Attributes:
        images, masks: the two, relative to the catalog.
    """

    images: str
    masks: str


class MasksEntry(SplitEntry):
    """Class masks: images of class numbers, or of colours where `values` says so.

    Attributes:
        format: which of the formats.
        train, val, test: where the split lies.
        classes: their names, in the order of the labels.
        ignore: the value (with colours: the colour) of pixels that do not count.
        values: without it the numbers, without `ignore`, stand for `classes` in rising order: 0 is `classes[0]`, unless
            `ignore` is 0 (ADE20K). With it, what stands for each class in turn, numbers (`[0, 255]`) or colours
            (`["#000000", "#804080"]`, `[[0, 0, 0], [128, 64, 128]]`); or a map from each to a class, by name or place,
            null for what does not count (`{0: road, 7: road, 3: null}`); or a text file with lines such as
            `road,128,64,128` or `road 7`. What is not listed and is not `ignore` is refused.
        image_suffix: what follows the common part of an image's name (Cityscapes: `_leftImg8bit.png`); any image
            without it.
        mask_suffix: the same of a mask's name (Cityscapes: `_gtFine_labelTrainIds.png`).
        palette: the classes' colours in pictures, as `[[R, G, B], ...]`; VOC's without it.
    """

    format: Literal["masks"]
    train: MasksSplit | None = None
    val: MasksSplit | None = None
    test: MasksSplit | None = None
    classes: Names
    ignore: Annotated[int, Field(ge=0, lt=1 << 16)] | str = 255
    values: Annotated[MaskMeaning | None, Later(before=None)] = None
    image_suffix: str = ""
    mask_suffix: str = ".png"
    palette: tuple[tuple[int, int, int], ...] | None = None


class GeneratedEntry(SplitEntry):
    """Base of the generated sets: `train`, `val` and `test` are numbers of images.

    Attributes:
        seed: of all that is drawn.
        size: side of the images in pixels.
    """

    train: PositiveInt | None = None
    val: PositiveInt | None = None
    test: PositiveInt | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class ShapesEntry(GeneratedEntry):
    """The generated set `shapes`: one textured shape on a cluttered background, 10 classes. `size` in pixels."""

    format: Literal["shapes"]
    size: Annotated[int, Field(ge=16, le=1024)] = 64


class ScenesEntry(GeneratedEntry):
    """The generated set `scenes`: several shapes an image, in VOC layout with boxes and masks. `size` in pixels."""

    format: Literal["shapes-scenes"]
    size: Annotated[int, Field(ge=32, le=2048)] = 128


Entry = Annotated[
    ParquetEntry
    | ImageFolderEntry
    | FileListEntry
    | TarEntry
    | TorchvisionEntry
    | VocEntry
    | CocoEntry
    | MasksEntry
    | ShapesEntry
    | ScenesEntry,
    Field(discriminator="format"),
]

VOC_CLASSES: tuple[str, ...] = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
