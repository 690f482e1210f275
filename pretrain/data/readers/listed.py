"""A list of images as people write it: lines, columns with or without a header, JSON, Parquet, in any usual encoding.

A line of text is a path, and what follows it its labels: behind a tab, a comma, a semicolon, or a space after the
path's image suffix. `|` and `;` stand between several labels of one column. A header is recognised by the names of its
columns; a header with a column of 0 and 1 for each class gives several labels an image.
"""

from __future__ import annotations

import codecs
import csv
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrain.data.labels import Label
from pretrain.data.names import SUFFIXES, is_image
from pretrain.runtime.errors import InputError, unknown

log = logging.getLogger("fastmoco")

IMAGE_COLUMNS = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "imagepath", "img"),
    *("img_path", "image_file", "image_name", "images", "name", "image_id", "id"),
)
LABEL_COLUMNS = (
    *("label", "labels", "class", "classes", "class_name", "class_id", "target", "targets", "category", "category_id"),
    *("tags", "y", "cls"),
)
_SUFFIX = "|".join(re.escape(suffix) for suffix in SUFFIXES)
_WITH_LABEL = re.compile(rf"(?P<path>.*(?:{_SUFFIX}))\s+(?P<label>\S.*)", re.IGNORECASE)
_TEXT = (".csv", ".tsv", ".txt", ".lst", ".list", "")


@dataclass(frozen=True)
class Listed:
    """What a list holds.

    Attributes:
        path: of the list.
        images: N paths as written.
        labels: the labels of each image, or None when the list gives none.
        lines: where each image stands in the list.
        several: the list is written as one of several labels an image.
    """

    path: Path
    images: list[str]
    labels: list[tuple[Label, ...]] | None
    lines: list[int]
    several: bool = False

    def where(self, row: int) -> str:
        """The list and the line."""
        return f"{self.path}:{self.lines[row]}"


def read_list(path: Path, *, image_column: str | None = None, label_column: str | None = None) -> Listed:
    """A list of any kind.

    Args:
        path: `.parquet`, `.json` (a list of objects, or an object of paths and labels), `.jsonl`; all else is text.
        image_column, label_column: the columns' names, where they are not of the usual ones.

    Raises:
        InputError: a list that is empty or cannot be read, columns that are not there, or labels in some lines only.
    """
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            listed = _of_records(path, _parquet_rows(path), image_column, label_column)
        elif kind in (".json", ".jsonl", ".ndjson"):
            listed = _of_records(path, _json_rows(path, kind), image_column, label_column)
        else:
            listed = _of_text(path, image_column, label_column)
    except OSError as error:
        raise InputError(f"list {path} cannot be read: {error.strerror}") from None
    if not listed.images:
        raise InputError(f"{path}:1: the list names no image")
    if listed.labels is not None and not listed.several:
        empty = next((row for row, labels in enumerate(listed.labels) if not labels), None)
        if empty is not None and all(not labels for labels in listed.labels):
            return Listed(path, listed.images, None, listed.lines)
        if empty is not None:
            row = empty or next(row for row, labels in enumerate(listed.labels) if labels)
            raise InputError(f"{listed.where(row)}: some lines end in a label and some do not")
        if any(len(labels) > 1 for labels in listed.labels):
            return Listed(path, listed.images, listed.labels, listed.lines, several=True)
    return listed


def decoded(path: Path) -> str:
    """A text file in UTF-8 or UTF-16 (with a byte order mark or without); what is neither is read as Latin-1 and said.

    Raises:
        InputError: a file that is no text.
    """
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)) and not len(data) % 4:
        encoding = "utf-32"
    elif data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    elif b"\0" in data[:4000]:
        encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16-le"
    else:
        encoding = "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8-sig":
            raise InputError(f"{path} is no text: neither UTF-8 nor UTF-16") from None
        line = data.count(b"\n", 0, error.start) + 1
        log.warning("%s:%d: not UTF-8 (byte 0x%02x): the list is read as Latin-1", path, line, data[error.start])
        text = data.decode("latin-1")
    if "\0" in text:
        raise InputError(f"{path} is no text: neither UTF-8 nor UTF-16")
    return text


def _of_text(path: Path, image_column: str | None, label_column: str | None) -> Listed:
    numbered = [(number, line.strip("\r")) for number, line in enumerate(decoded(path).split("\n"), start=1)]
    numbered = [(number, line) for number, line in numbered if line.strip()]
    if not numbered:
        return Listed(path, [], None, [])
    rows: list[Mapping[str, Any]] = []
    delimiter = _delimiter([line for _, line in numbered])
    if delimiter is not None:
        cells = [next(csv.reader([line.strip(" ")], delimiter=delimiter)) for _, line in numbered]
        cells = [[cell.strip() for cell in row] for row in cells]
        if _is_header(cells[0], image_column):
            for (number, _), row in zip(numbered[1:], cells[1:], strict=True):
                if len(row) != len(cells[0]):
                    raise InputError(f"{path}:{number}: {len(row)} columns, the header has {len(cells[0])}")
                rows.append(dict(zip(cells[0], row, strict=True)))
            listed = _of_records(path, rows, image_column, label_column)
            return Listed(path, listed.images, listed.labels, [number for number, _ in numbered[1:]], listed.several)
    _no_columns(path, image_column, label_column)
    images: list[str] = []
    labels: list[tuple[Label, ...]] = []
    marked = False
    for number, line in numbered:
        if delimiter is not None:
            image, *texts = [cell.strip() for cell in next(csv.reader([line.strip(" ")], delimiter=delimiter))]
        else:
            image, texts = _by_space(line.strip())
        if not image:
            raise InputError(f"{path}:{number}: no image stands before the label")
        images.append(image)
        split = [part for text in texts for part in _parts(text)]
        marked |= any(len(_parts(text)) > 1 for text in texts)
        labels.append(tuple(split))
    lines = [number for number, _ in numbered]
    return Listed(path, images, labels if any(labels) else None, lines, several=marked)


def _delimiter(lines: Sequence[str]) -> str | None:
    """The sign between columns, when it stands in every line behind what is an image or a header's name."""
    if all("\t" in line for line in lines):
        return "\t"
    for sign in ",;":
        firsts = [line.strip().partition(sign) for line in lines]
        if not all(found for _, found, _ in firsts):
            continue
        header = _is_header([cell.strip().strip('"') for cell in lines[0].split(sign)], None)
        if header or all(is_image(first.strip().strip('"')) for first, _, _ in firsts):
            return sign
    return None


def _is_header(cells: Sequence[str], image_column: str | None) -> bool:
    if image_column is not None:
        return image_column in cells
    names = {cell.lower() for cell in cells}
    return bool(names & set(IMAGE_COLUMNS)) and not any(is_image(cell) for cell in cells)


def _by_space(line: str) -> tuple[str, list[str]]:
    if not is_image(line.rpartition("/")[2]) and (match := _WITH_LABEL.fullmatch(line)):
        label = match["label"]
        return match["path"], label.split() if re.fullmatch(r"\d+(\s+\d+)*", label) else [label]
    image, _, label = line.rpartition(" ")
    return (image.strip(), [label]) if image and label.isdigit() else (line, [])


def _parts(text: str) -> list[str]:
    """The labels of a column: `cat|dog` and `cat;dog` are two."""
    return [part.strip() for part in re.split(r"[|;]", text) if part.strip()]


def _of_records(
    path: Path, rows: Sequence[Mapping[str, Any]], image_column: str | None, label_column: str | None
) -> Listed:
    """Rows with named columns."""
    lines = list(range(1, len(rows) + 1))
    if not rows:
        return Listed(path, [], None, [])
    columns = list(dict.fromkeys(column for row in rows for column in row))
    of_image = _column(path, "image_column", image_column, columns, IMAGE_COLUMNS)
    if of_image is None:
        raise InputError(f"{path}: none of its columns ({', '.join(columns[:8])}) is an image's; say `image_column`")
    images = []
    for row, line in zip(rows, lines, strict=True):
        image = row.get(of_image)
        if isinstance(image, Mapping):  # Hugging Face: {bytes, path}
            image = image.get("path")
        if not isinstance(image, str) or not image:
            raise InputError(f"{path}: row {line} has {image!r} in column '{of_image}', expected an image's path")
        images.append(image)
    of_label = _column(path, "label_column", label_column, columns, LABEL_COLUMNS)
    if of_label is None:
        others = [column for column in columns if column != of_image]
        if others and all(
            str(row.get(column)).strip() in ("0", "1", "0.0", "1.0") for row in rows for column in others
        ):
            found = [tuple(each for each in others if float(row[each]) == 1) for row in rows]
            return Listed(path, images, list(found), lines, several=True)
        return Listed(path, images, None, lines)
    several = any(
        isinstance(row.get(of_label), list | tuple)
        or (isinstance(row.get(of_label), str) and len(_parts(row[of_label])) > 1)
        for row in rows
    )
    labels = [_labels_of(path, line, row.get(of_label)) for row, line in zip(rows, lines, strict=True)]
    return Listed(path, images, labels, lines, several)


def _labels_of(path: Path, line: int, value: Any) -> tuple[Label, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return tuple(_parts(value))
    if isinstance(value, list | tuple):
        return tuple(label for each in value for label in _labels_of(path, line, each))
    if isinstance(value, bool) or not (isinstance(value, int) or (isinstance(value, float) and value.is_integer())):
        raise InputError(f"{path}: row {line} has the label {value!r}, expected a number, a name, or a list of them")
    return (int(value),)


def _column(path: Path, field: str, given: str | None, columns: list[str], usual: Sequence[str]) -> str | None:
    if given is not None:
        if given not in columns:
            raise unknown(f"{field} of {path}", given, columns)
        return given
    by_lower = {column.lower(): column for column in reversed(columns)}
    return next((by_lower[name] for name in usual if name in by_lower), None)


def _no_columns(path: Path, image_column: str | None, label_column: str | None) -> None:
    for field, given in (("image_column", image_column), ("label_column", label_column)):
        if given is not None:
            raise InputError(f"{path} has no header, so that {field} '{given}' is not in it")


def _json_rows(path: Path, kind: str) -> list[Mapping[str, Any]]:
    text = decoded(path)
    try:
        if kind == ".json":
            value = json.loads(text)
        else:
            value = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None
    if isinstance(value, dict):
        value = [{"path": image, "label": label} for image, label in value.items()]
    if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
        value = [{"path": image} for image in value]
    if isinstance(value, list) and value and all(isinstance(each, list) and len(each) == 2 for each in value):
        value = [{"path": image, "label": label} for image, label in value]
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise InputError(f"{path}: expected a list of objects, or an object of paths and labels")
    return value


def _parquet_rows(path: Path) -> list[Mapping[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as opened:
            return opened.read().to_pylist()
    except pa.ArrowException as error:
        raise InputError(f"{path} is no Parquet file: {error}") from None


def on_disk(root: Path, images: Sequence[str]) -> list[bytes]:
    """The names as bytes. One that was read as Latin-1 may lie on disk in its own bytes, as `find` wrote it."""
    names = []
    for image in images:
        name = os.fsencode(image)
        if not image.isascii():
            raw = image.encode("latin-1", errors="ignore")
            base = os.fsencode(root)
            if not os.path.exists(os.path.join(base, name)) and os.path.exists(os.path.join(base, raw)):  # noqa: PTH110, PTH118
                name = raw
        names.append(name)
    return names
