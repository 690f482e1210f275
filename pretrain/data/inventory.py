"""`fastmoco data list | make`: what the catalog holds, and generated sets as files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pretrain.data.catalog import (
    Catalog,
    Entry,
    FileListEntry,
    ImageFolderEntry,
    ParquetEntry,
    ScenesEntry,
    ShapesEntry,
    TarEntry,
    TorchvisionEntry,
    VocEntry,
)
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


def list_sets(catalog: Catalog) -> SetLines:
    """Every set of the catalog; only the presence of its files is looked at."""
    return SetLines(
        SetLine(name, entry.format, entry.splits(), _state(catalog, entry))
        for name, entry in ((name, catalog.entry(name)) for name in catalog.names())
    )


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
