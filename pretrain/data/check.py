"""`fastmoco data list | check | make`: what the catalog holds, whether it is whole, and generated sets as files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pretrain.data.catalog import (
    Catalog,
    CocoEntry,
    Entry,
    FileListEntry,
    ImageFolderEntry,
    MasksEntry,
    ParquetEntry,
    ScenesEntry,
    ShapesEntry,
    TarEntry,
    TorchvisionEntry,
    VocEntry,
)
from pretrain.data.images import ImageSet
from pretrain.data.manifests import imagenet_classes, manifests, recognise
from pretrain.data.places import Places
from pretrain.runtime.errors import InputError
from pretrain.runtime.progress import progress

_LISTED = 10  # problems of one kind that are written out; the rest is a number


@dataclass(frozen=True)
class SetLine:
    """A set in a listing. `state`: "there", "generated", "fetched when used", or what is missing."""

    name: str
    format: str
    splits: tuple[str, ...]
    state: str


class SetLines(list[SetLine]):
    """The sets of a catalog; as text a table of four columns."""

    def __str__(self) -> str:
        rows = [("name", "format", "splits", "state")]
        rows += [(line.name, line.format, " ".join(line.splits), line.state) for line in self]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        return "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
        )


@dataclass
class SplitReport:
    """What one split holds: `images`, `classes`, and `opened`, how many of its images were decoded."""

    split: str
    images: int
    classes: int
    opened: int = 0


@dataclass
class Report:
    """What a check found. `ok` when there is no problem; `where` says where people get the set, if it is known."""

    name: str
    title: str = ""
    splits: list[SplitReport] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    where: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is missing or damaged."""
        return not self.problems

    def __str__(self) -> str:
        lines = [f"{self.name}{f' ({self.title})' if self.title else ''}: {'ok' if self.ok else 'not whole'}"]
        for split in self.splits:
            opened = f", {split.opened} opened" if split.opened else ""
            lines.append(f"  {split.split}: {split.images} images, {split.classes} classes{opened}")
        lines += [f"  problem: {problem}" for problem in self.problems]
        if self.problems and self.where:
            lines.append(f"  get it from {self.where}")
        return "\n".join(lines)


def list_sets(catalog: Catalog) -> SetLines:
    """Every set of the catalog; only the presence of its files is looked at."""
    return SetLines(
        SetLine(name, entry.format, entry.splits(), _state(catalog, entry))
        for name, entry in ((name, catalog.entry(name)) for name in catalog.names())
    )


def check_set(catalog: Catalog, name: str, *, open_images: bool = False) -> Report:
    """Count a set's classes and images, hold them to what is known of the set, and look for missing files.

    Args:
        catalog, name: the set.
        open_images: also decode every image (of masks: check every pixel value); the damaged ones are named.

    Raises:
        InputError: no such set. What is wrong with the set itself stands in the report.
    """
    entry = catalog.entry(name)
    report = Report(name)
    for split in entry.splits():
        try:
            if isinstance(entry, VocEntry | CocoEntry | ScenesEntry):
                _check_objects(catalog, name, entry, split, report, open_images)
            elif isinstance(entry, MasksEntry):
                _check_masks(catalog, name, split, report, open_images)
            else:
                _check_labelled(catalog, name, split, report, open_images)
        except InputError as error:
            report.problems.append(f"{split}: {error}")
    if isinstance(entry, TorchvisionEntry):
        from pretrain.data.torchvision_facts import facts

        report.title, report.where = entry.name, facts(entry.name).where
    return report


def make_set(catalog: Catalog, name: str, out: Path) -> str:
    """Write a generated set as files: `shapes` as image folders, `scenes` as a VOC tree. What is there already stays.

    Returns:
        The line for a catalog that names the files.

    Raises:
        InputError: no such set, or one that is not generated.
    """
    entry = catalog.entry(name)
    out = Path(out)
    if isinstance(entry, ScenesEntry):
        from pretrain.data.generated.scenes import materialise_scenes
        from pretrain.data.generated.shapes import CLASSES

        root = materialise_scenes(entry, out)
        splits = ", ".join(f"{split}: [{split}]" for split in entry.splits())
        return f"{name}_files: {{format: voc, root: {root}, {splits}, classes: [{', '.join(CLASSES)}]}}"
    if not isinstance(entry, ShapesEntry):
        raise InputError(f"data set '{name}' has format '{entry.format}'; only generated sets (shapes) can be made")
    from pretrain.runtime.files import write_bytes

    for split in entry.splits():
        images = catalog.images(name, split)
        with progress(f"write {name}/{split}", len(images)) as bar:
            for index in range(len(images)):
                path = out / split / images.classes[images.labels[index]] / f"{index:06d}.png"
                if not path.exists():
                    write_bytes(path, images.encoded(index))
                bar.advance()
    splits = ", ".join(f"{split}: {out / split}" for split in entry.splits())
    return f"{name}_files: {{format: imagefolder, {splits}, classes: {len(images.classes)}}}"


def _state(catalog: Catalog, entry: Entry) -> str:
    if isinstance(entry, ShapesEntry | ScenesEntry):
        return "generated"
    missing = [str(path) for path in _paths(catalog.places, entry) if not path.exists()]
    if not missing:
        return "there"
    if isinstance(entry, TorchvisionEntry) and entry.download:
        return "fetched when used"
    return f"missing: {missing[0]}"


def _paths(places: Places, entry: Entry) -> Iterator[Path]:
    if isinstance(entry, FileListEntry | VocEntry | TorchvisionEntry):
        yield places.resolve(entry.root)
        return
    for split in entry.splits():
        value = getattr(entry, split)
        if isinstance(entry, ParquetEntry | TarEntry):
            # Not its files: they are looked up when the set is opened.
            yield from map(places.beginning, value)
        elif isinstance(entry, ImageFolderEntry):
            yield places.resolve(value)
        else:
            yield from map(places.resolve, value.model_dump().values())


def _check_labelled(catalog: Catalog, name: str, split: str, report: Report, open_images: bool) -> None:
    images = catalog.images(name, split)
    found = SplitReport(split, len(images), len(images.classes))
    report.splits.append(found)
    known = recognise(images)
    if known is not None:
        manifest = manifests()[known]
        report.title, report.where = manifest.title, manifest.where
        # A list names a part on purpose; folders and Parquet files are meant to be the whole set.
        entry = catalog.entry(name)
        if not isinstance(entry, FileListEntry):
            as_known = "val" if known == "imagenet" and split == "test" else split
            if known == "imagenet":
                _add(report, split, "class folder missing", sorted(set(imagenet_classes()) - set(images.classes)))
            expected = manifest.images.get(as_known, len(images))
            if len(images) != expected:
                report.problems.append(f"{split}: {len(images)} images, {manifest.title} has {expected}")
                low, _ = manifest.per_class[as_known]
                counts = Counter(images.labels.tolist())
                short = [
                    f"{folder} ({counts[label]} images, at least {low} expected)"
                    for label, folder in enumerate(images.classes)
                    if counts[label] < low
                ]
                _add(report, split, "class too small", short)
    if isinstance(catalog.entry(name), FileListEntry):
        absent = [images.where(index) for index in range(len(images)) if not Path(images.where(index)).is_file()]
        _add(report, split, "no file at", absent)
    if open_images:
        found.opened = len(images)
        _add(report, split, "damaged", _damaged(f"open {name}/{split}", images))


def _damaged(what: str, images: ImageSet) -> list[str]:
    def reason(index: int) -> str:
        try:
            images.decode(index)
        except InputError as error:
            return str(error)
        return ""

    with progress(what, len(images)) as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        reasons = []
        for told in pool.map(reason, range(len(images))):
            bar.advance()
            if told:
                reasons.append(told)
    return reasons


def _check_objects(
    catalog: Catalog,
    name: str,
    entry: VocEntry | CocoEntry | ScenesEntry,
    split: str,
    report: Report,
    open_images: bool,
) -> None:
    objects = catalog.objects(name, split)
    found = SplitReport(split, len(objects), len(objects.classes))
    report.splits.append(found)
    if isinstance(entry, VocEntry) and entry.classes == "voc":
        manifest = manifests()["voc"]
        report.title, report.where = manifest.title, manifest.where
        expected = [manifest.lists.get(part) for part in getattr(entry, split)]
        total = sum(count or 0 for count in expected)
        if None not in expected and len(objects) != total:
            report.problems.append(f"{split}: {len(objects)} images, {manifest.title} lists {total}")
    elif isinstance(entry, CocoEntry):
        manifest = manifests()["coco"]
        expected_images = manifest.files.get(Path(getattr(entry, split).json_file).name)
        # The file's name alone does not make it COCO's: parts and look-alikes keep the name.
        if expected_images is not None and len(objects) == expected_images:
            report.title, report.where = manifest.title, manifest.where
    if open_images:
        from pretrain.data.looked_at import fault_of

        with progress(f"open {name}/{split}", len(objects)) as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
            damaged = []
            for told in pool.map(
                lambda number: fault_of(objects.images[number], masks=objects.has_masks), range(len(objects))
            ):
                bar.advance()
                if told:
                    damaged.append(told)
        found.opened = len(objects)
        _add(report, split, "damaged", damaged)


def _check_masks(catalog: Catalog, name: str, split: str, report: Report, open_images: bool) -> None:
    from pretrain.data.readers.masks import check_masks
    from pretrain.runtime.cache import cache_root

    masks = catalog.masks(name, split)
    found = SplitReport(split, len(masks), len(masks.classes))
    report.splits.append(found)
    if open_images:
        statistics = check_masks(masks, cache_root())
        found.opened = len(masks)
        absent = [masks.classes[label] for label in np.flatnonzero(np.array(statistics.pixels) == 0)]
        _add(report, split, "class without a pixel", absent)


def _add(report: Report, split: str, kind: str, found: list[str]) -> None:
    report.problems += [f"{split}: {kind}: {item}" for item in found[:_LISTED]]
    if len(found) > _LISTED:
        report.problems.append(f"{split}: {kind}: {len(found) - _LISTED} more")
