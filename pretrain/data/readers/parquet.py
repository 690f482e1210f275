"""Parquet in Hugging Face's image layout. Row groups are read when first asked for; memory stays bounded.

Training asks for rows in random order, which Parquet cannot give one by one. A row group is therefore unpacked at its
first use: small sets into memory, larger ones into one file a row group in the cache, from which any image is one read.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pretrain.data.classes import check_distinct, matched
from pretrain.data.content import file_identity
from pretrain.data.entries import ParquetEntry
from pretrain.data.images import ImageSet, Source, unlabelled
from pretrain.data.labels import Label, numbered
from pretrain.data.places import Places
from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError, unknown
from pretrain.runtime.files import replacing

IN_MEMORY_BYTES = 256 << 20  # of a split's image column; above, row groups are unpacked to the cache


class ParquetImages(Source):
    """The image column of some Parquet files.

    Attributes:
        starts: int64 (G + 1,), the first row of each row group over all files, and the number of rows.
    """

    def __init__(self, files: list[Path], column: str, name: str) -> None:
        self.files, self.column = files, column
        self._groups: list[tuple[int, int]] = []  # file, row group in it
        counts: list[int] = []
        image_bytes = 0
        for number, path in enumerate(files):
            metadata = _open(path).metadata
            for group in range(metadata.num_row_groups):
                described = metadata.row_group(group)
                self._groups.append((number, group))
                counts.append(described.num_rows)
                image_bytes += sum(
                    described.column(place).total_uncompressed_size
                    for place in range(described.num_columns)
                    if described.column(place).path_in_schema.split(".")[0] == column
                )
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.in_memory = image_bytes <= IN_MEMORY_BYTES
        self.identity = hashlib.sha256("\n".join(map(file_identity, files)).encode()).hexdigest()
        self._unpacked: dict[int, tuple[bytes, np.ndarray]] = {}
        self._name = name

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_unpacked": {}}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def encoded(self, row: int) -> bytes:
        """The bytes of one image."""
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        inside = row - int(self.starts[group])
        if self.in_memory:
            if group not in self._unpacked:
                self._unpacked[group] = self._read(group)
            data, ends = self._unpacked[group]
            return data[int(ends[inside]) : int(ends[inside + 1])]
        rows = int(self.starts[group + 1] - self.starts[group])
        with self._on_disk(group).open("rb") as stream:
            stream.seek(8 * inside)
            begin, end = np.frombuffer(stream.read(16), dtype=np.int64)
            stream.seek(8 * (rows + 1) + int(begin))
            return stream.read(int(end - begin))

    def where(self, row: int) -> str:
        """The file and the row in it."""
        group = int(np.searchsorted(self.starts, row, side="right")) - 1
        number, _ = self._groups[group]
        first = self.starts[[file for file, _ in self._groups].index(number)]
        return f"{self.files[number]} row {row - int(first)}"

    def _read(self, group: int) -> tuple[bytes, np.ndarray]:
        """The row group's images one after the other, and where each begins (int64, rows + 1)."""
        number, inside = self._groups[group]
        try:
            table = _open(self.files[number]).read_row_group(inside, columns=[f"{self.column}.bytes"])
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{self.files[number]}, row group {inside}, cannot be read: {error}") from None
        images = table.column(self.column).combine_chunks().field("bytes")
        parts = [part or b"" for part in images.to_pylist()]
        return b"".join(parts), np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)

    def _on_disk(self, group: int) -> Path:
        # Processes that unpack the same row group at once write the same content; the last rename wins.
        path = cache_root() / "parquet" / self.identity[:32] / f"{group:06d}.bin"
        if not path.exists():
            data, ends = self._read(group)
            with replacing(path) as stream:
                stream.write(ends.tobytes())
                stream.write(data)
        return path


def open_split(places: Places, name: str, entry: ParquetEntry, split: str) -> ImageSet:
    """One split of a Parquet set; its labels are read at once, its images when asked for.

    Labels are numbers, texts (class names), or lists of either: several an image.

    Raises:
        InputError: a file is missing or no Parquet, lacks a column, or has labels that are no class.
    """
    files = _files(places, name, entry, split)
    for path in files:
        if entry.label_column not in (names := _open(path).schema_arrow.names):
            raise InputError(
                f"{unknown(f'column of {path}', entry.label_column, names)}; images without labels can be pretrained "
                "on, not evaluated"
            )
    kind = _open(files[0]).schema_arrow.field(entry.label_column).type
    if pa.types.is_integer(kind):
        return _of_numbers(places, name, entry, split, files)
    return _of_names(places, name, entry, split, files)


def open_pictures(places: Places, name: str, entry: ParquetEntry, split: str) -> ImageSet:
    """The same, where labels may be missing: no such column, or one that holds nothing, or -1 throughout.

    Raises:
        InputError: as `open_split`, for all else; a `label_column` that the catalog names must be there.
    """
    files = _files(places, name, entry, split)
    column = entry.label_column
    there = [column in _open(path).schema_arrow.names for path in files]
    named = any(there) or "label_column" in entry.model_fields_set
    if named and not (all(there) and all(_holds_nothing(path, column) for path in files)):
        return open_split(places, name, entry, split)
    return unlabelled(ParquetImages(files, entry.image_column, name), name=name, split=split)


def _holds_nothing(path: Path, column: str) -> bool:
    values = _open(path).read(columns=[column]).column(column)
    if values.null_count == len(values):
        return True
    return pa.types.is_integer(values.type) and not values.null_count and bool((values.to_numpy() == -1).all())


def _files(places: Places, name: str, entry: ParquetEntry, split: str) -> list[Path]:
    """The files of a split, each with a column of images."""
    files = places.files(getattr(entry, split), name)
    for path in files:
        schema = _open(path).schema_arrow
        if entry.image_column not in schema.names:
            raise unknown(f"column of {path}", entry.image_column, schema.names)
        kind = schema.field(entry.image_column).type
        if not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
            raise InputError(f"{path}: column '{entry.image_column}' is {kind}, expected struct{{bytes, path}}")
    if not sum(_open(path).metadata.num_rows for path in files):
        raise InputError(f"data set '{name}': {files[0]} has no row")
    return files


def _of_numbers(places: Places, name: str, entry: ParquetEntry, split: str, files: list[Path]) -> ImageSet:
    wanted, whose = _reference(places, name, entry, split, files)
    labels = []
    for path in files:
        opened = _open(path)
        schema = opened.schema_arrow
        column = opened.read(columns=[entry.label_column]).column(entry.label_column)
        if not pa.types.is_integer(column.type) or column.null_count:
            raise InputError(f"{path}: column '{entry.label_column}' is {column.type}, expected int64 without nulls")
        found = column.to_numpy().astype(np.int64)
        names = _class_names(schema, entry.label_column)
        if names is not None and wanted is not None:
            found = matched(found, names, wanted, str(path), whose)
        elif wanted is not None and not isinstance(entry.classes, tuple):
            raise InputError(
                f"{path} does not name its classes, {whose} does: {', '.join(wanted[:5])} ...; "
                "say them as `classes` in the catalog"
            )
        labels.append(found)
    values = np.concatenate(labels)
    classes = _classes(values, wanted, entry.classes, name)
    source = ParquetImages(files, entry.image_column, name)
    return ImageSet(source, name=name, split=split, classes=classes, labels=values)


def _of_names(places: Places, name: str, entry: ParquetEntry, split: str, files: list[Path]) -> ImageSet:
    source = ParquetImages(files, entry.image_column, name)
    found, several = _texts(files, entry.label_column, name, entry.classes)
    of_train = None
    if split != "train" and entry.train is not None:
        of_train = lambda: _texts(_files(places, name, entry, "train"), entry.label_column, name, entry.classes)[0]  # noqa: E731
    labels, classes = numbered(
        found, several=several, given=entry.classes, of_train=of_train, name=name, where=source.where
    )
    return ImageSet(source, name=name, split=split, classes=classes, labels=labels)


def _texts(
    files: list[Path], column: str, name: str, given: int | tuple[str, ...] | None
) -> tuple[list[tuple[Label, ...]], bool]:
    """The labels of each row as the files have them, and whether a row may have several."""
    found: list[tuple[Label, ...]] = []
    several = False
    for path in files:
        opened = _open(path)
        if column not in opened.schema_arrow.names:
            raise unknown(f"column of {path}", column, opened.schema_arrow.names)
        values = opened.read(columns=[column]).column(column)
        kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        each = kind.value_type if listed else kind
        if not (pa.types.is_integer(each) or _is_text(each)) or values.null_count:
            raise InputError(
                f"{path}: column '{column}' is {values.type}, expected numbers, texts, or lists of either, without "
                "nulls"
            )
        if found and several != listed:
            raise InputError(f"{path}: column '{column}' is {values.type}, that of the file before it is not")
        several = listed
        names = _class_names(opened.schema_arrow, column)
        rows = [tuple(value) if listed else (value,) for value in values.to_pylist()]
        if names is not None and pa.types.is_integer(each):
            outside = [label for row in rows for label in row if not 0 <= label < len(names)]
            if outside:
                raise InputError(
                    f"{path}: label {outside[0]} is outside 0..{len(names) - 1} of its {len(names)} classes"
                )
            rows = [tuple(names[label] for label in row) for row in rows]
        found += rows
    return found, several


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _reference(
    places: Places, name: str, entry: ParquetEntry, split: str, files: list[Path]
) -> tuple[tuple[str, ...] | None, str]:
    """The class names that labels count by, and whose they are: the catalog's, else those of train's files."""
    if isinstance(entry.classes, tuple):
        check_distinct(entry.classes, f"data set '{name}': `classes` of the catalog")
        return entry.classes, "`classes` of the catalog"
    first = places.files(entry.train, name) if entry.train is not None and split != "train" else files
    # Any file that names its classes will do: the others are held to it.
    for path in dict.fromkeys([*first, *files]):
        names = _class_names(_open(path).schema_arrow, entry.label_column)
        if names is not None:
            return tuple(names), str(path)
    return None, ""


def _classes(
    labels: np.ndarray, names: tuple[str, ...] | None, given: int | tuple[str, ...] | None, name: str
) -> tuple[str, ...]:
    classes = names or tuple(str(label) for label in range(given if isinstance(given, int) else int(labels.max()) + 1))
    if isinstance(given, int) and given != len(classes):
        raise InputError(f"data set '{name}': the catalog says {given} classes, its files name {len(classes)}")
    if labels.min() < 0 or labels.max() >= len(classes):
        raise InputError(
            f"data set '{name}': labels run from {labels.min()} to {labels.max()}, expected 0 to {len(classes) - 1}"
        )
    return classes


def _class_names(schema: pa.Schema, column: str) -> list[str] | None:
    # Hugging Face's `datasets` writes its features as JSON into the schema's metadata.
    described = (schema.metadata or {}).get(b"huggingface")
    if not described:
        return None
    feature = json.loads(described).get("info", {}).get("features", {}).get(column, {})
    if isinstance(feature, list):  # a list of class labels
        feature = feature[0] if feature else {}
    feature = feature.get("feature", feature)
    return feature.get("names") if isinstance(feature, dict) else None


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, memory_map=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} is no Parquet file: {error}") from None
