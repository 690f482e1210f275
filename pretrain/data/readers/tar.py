"""WebDataset's tar shards: indexed once, then any image is one read at its place in its shard.

A member's key ends at the first dot of its base name, and what follows names its field (WebDataset's rule): of
`a/0001.jpg` and `a/0001.cls` the key is `a/0001`. A label stands in `.cls`, `.json` or `.txt`, as digits or as a class
name (in JSON also as a list); which of them, the shards show or the catalog says (`label_field`). Nothing is passed
over in silence: an image without a label or a label without an image, a key with two images, a name that stands twice
and a shard that is cut off are refused with counts and names; other fields and the files of operating systems are
counted.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pretrain.data.content import file_identity
from pretrain.data.entries import TarEntry
from pretrain.data.images import ImageSet, Source, unlabelled
from pretrain.data.kept import keep, read_kept
from pretrain.data.labels import Label, numbered
from pretrain.data.names import SUFFIXES, is_system
from pretrain.data.places import Places
from pretrain.data.readers.compressed import plain_shard
from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError
from pretrain.runtime.progress import progress

_INDEX_VERSION = 3
_LABEL_KEYS = ("label", "labels", "cls", "class", "class_id", "class_name", "target", "category")  # of a .json
_LONGEST = 200  # characters of a class name in a text; what is longer is a caption
_BLOCK = 512  # bytes; two blocks of zeros end an archive (POSIX.1-2001, pax, "ustar Interchange Format")


class Shards(Source):
    """The images of some shards; for each its shard, the offset and the length of its bytes there."""

    def __init__(
        self, files: list[Path], plain: list[Path], indices: list[dict[str, np.ndarray]], identity: str
    ) -> None:
        self.files, self.plain, self.identity = files, plain, identity
        self.shard = np.repeat(np.arange(len(files)), [len(index["keys"]) for index in indices])
        self.places = np.concatenate([index["places"] for index in indices])
        self.keys = np.concatenate([index["keys"] for index in indices])
        others: Counter[str] = Counter()
        for index in indices:
            for line in index["others"].tolist():
                kind, _, count = line.decode().partition("\t")
                others[kind] += int(count)
        self.notes = tuple(f"{count} members '{kind}' are not read" for kind, count in sorted(others.items()))

    def __len__(self) -> int:
        return len(self.shard)

    def encoded(self, row: int) -> bytes:
        """The bytes of one member."""
        offset, length = self.places[row].tolist()
        with self.plain[self.shard[row]].open("rb") as stream:
            stream.seek(offset)
            return stream.read(length)

    def where(self, row: int) -> str:
        """The shard and the member's key."""
        return f"{self.files[self.shard[row]]} member {self.keys[row].decode()}"


def open_split(places: Places, name: str, entry: TarEntry, split: str) -> ImageSet:
    """One split of tar shards.

    A shard's members are read through once; the index is kept in the cache for as long as the shard holds the same.

    Raises:
        InputError: a shard is missing, no tar, or cut off; an image without a label beside it, or the reverse, or with
            one that is no class; two images of one key; a name that stands twice.
    """
    source, labels, several = _open(places, name, entry, split)
    if labels is None:
        raise InputError(
            f"data set '{name}': the shards of {split} hold no labels ({source.where(0)} has no .cls, .json or .txt "
            "with one); such a set can be pretrained on, not evaluated"
        )
    return _labelled(places, name, entry, split, source, labels, several)


def open_pictures(places: Places, name: str, entry: TarEntry, split: str) -> ImageSet:
    """The same, where the shards need hold no labels. Raises InputError as `open_split` does, for all else."""
    source, labels, several = _open(places, name, entry, split)
    if labels is None:
        return unlabelled(source, name=name, split=split)
    return _labelled(places, name, entry, split, source, labels, several)


def _labelled(
    places: Places,
    name: str,
    entry: TarEntry,
    split: str,
    source: Shards,
    labels: list[tuple[Label, ...]],
    several: bool,
) -> ImageSet:
    def of_train() -> list[tuple[Label, ...]]:
        _, found, _ = _open(places, name, entry, "train")
        if found is None:
            raise InputError(f"data set '{name}': the shards of train hold no labels, those of {split} do")
        return found

    values, classes = numbered(
        labels,
        several=several,
        given=entry.classes,
        of_train=of_train if split != "train" and entry.train else None,
        name=name,
        where=source.where,
    )
    return ImageSet(source, name=name, split=split, classes=classes, labels=values)


def _open(
    places: Places, name: str, entry: TarEntry, split: str
) -> tuple[Shards, list[tuple[Label, ...]] | None, bool]:
    """The images; their labels, None when no shard holds one; whether an image may have several."""
    files = places.files(getattr(entry, split), name)
    identities = [file_identity(path) for path in files]
    indices, plain = [], []
    with progress(f"index {name}/{split}", len(files), unit="shards") as bar:
        for path, identity in zip(files, identities, strict=True):
            plain.append(plain_shard(path, identity))
            indices.append(_index(path, plain[-1], identity, entry.label_field))
            bar.advance()
    source = Shards(files, plain, indices, hashlib.sha256("\n".join(identities).encode()).hexdigest())
    if not len(source):
        raise InputError(f"data set '{name}': {files[0]} holds no image")
    fields = {str(index["field"][0]): path for path, index in zip(files, indices, strict=True) if len(index["keys"])}
    if len(fields) > 1:
        (one, there), (other, here) = list(fields.items())[:2]
        raise InputError(
            f"data set '{name}': {there} has {f'labels in .{one}' if one else 'no labels'}, {here} has "
            f"{f'labels in .{other}' if other else 'none'}; `label_field` says where they are"
        )
    (field,) = fields
    if field == "txt" and entry.label_field is None:
        # Texts beside images are captions more often than classes: they count where they can be nothing else.
        texts = {json.loads(text)[0] for index in indices for text in index["labels"].tolist()}
        known = set(entry.classes) if isinstance(entry.classes, tuple) else set()
        if not (texts <= known or all(text.isascii() and text.isdigit() for text in texts)):
            field = ""
    if not field:
        return source, None, False
    values = [json.loads(text) for index in indices for text in index["labels"].tolist()]
    several = any(isinstance(value, dict) for value in values)
    return source, [tuple(value["several"] if isinstance(value, dict) else value) for value in values], several


def _index(path: Path, plain: Path, identity: str, field: str | None) -> dict[str, np.ndarray]:
    key = hashlib.sha256(f"{_INDEX_VERSION} {identity} {field}".encode()).hexdigest()[:32]
    kept = cache_root() / "tar" / f"{key}.npz"
    index = read_kept(kept, ("labels", "places", "keys", "others", "field"))
    if index is None:
        index = _read_through(path, plain, field)
        keep(kept, index, f"the index of {path}")
    return index


def _read_through(path: Path, plain: Path, wanted: str | None) -> dict[str, np.ndarray]:
    field_wanted, _, key_wanted = (wanted or "").partition(":")
    fields = (field_wanted,) if wanted else ("cls", "json", "txt")
    images: dict[str, tuple[str, int, int]] = {}  # key -> the member's name, where its bytes begin, how many
    found: dict[str, dict[str, str]] = {field: {} for field in fields}  # field -> key -> the labels as JSON
    others: Counter[str] = Counter()
    dotted: list[str] = []
    seen: dict[str, tarfile.TarInfo] = {}
    try:
        with plain.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                name = member.name
                if member.isdir():
                    continue
                if any(is_system(part) for part in name.split("/") if part not in ("", ".", "..")):
                    others["hidden or system"] += 1
                    continue
                if name in seen:
                    raise InputError(f"{path} member {name} stands twice in the shard")
                if member.islnk() and member.linkname in seen:  # a second name for the same bytes
                    member = seen[member.linkname]
                if not member.isfile():
                    raise InputError(f"{path} member {name} is a link or a device, expected a file")
                seen[name] = member
                folder, slash, base = name.rpartition("/")
                stem, _, field = base.partition(".")
                key, field = folder + slash + stem, field.lower()
                if f".{field}" in SUFFIXES:
                    if key in images:
                        raise InputError(f"{path} has two images of one key: {images[key][0]} and {name}")
                    images[key] = (name, member.offset_data, member.size)
                elif field in fields:
                    label = _label(
                        archive, member, path, field, key_wanted, required=wanted is not None or field == "cls"
                    )
                    if label is None:
                        others[f".{field}"] += 1
                    else:
                        found[field][key] = label
                else:
                    others[f".{field}" if field else "no suffix"] += 1
                    if f".{field.rpartition('.')[2]}" in SUFFIXES:
                        dotted.append(name)
            _check_end(stream, archive.offset, path)
    except (tarfile.TarError, EOFError) as error:
        if "unexpected end of data" in str(error):
            raise InputError(f"{path} is cut off: it ends within a member") from None
        raise InputError(f"{path} is no plain (uncompressed) tar file: {error}") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    # Where the catalog does not say, the first field that holds labels: metadata and captions that lie beside some
    # images only are none.
    whole = [each for each in fields if found[each] and (each == "cls" or set(found[each]) >= set(images))]
    field = field_wanted or next(iter(whole), "")
    for other in fields:
        if other != field and found[other]:
            others[f".{other}"] += len(found[other])
    labels = found.get(field, {})
    if field:
        _check_partners(path, images, labels, dotted, field)
    elif dotted and not images:
        raise _dotted(path, dotted)
    return {
        "labels": np.array([labels[key].encode() if field else b"" for key in images], dtype=bytes),
        "places": np.array([place for _, *place in images.values()], dtype=np.int64).reshape(-1, 2),
        "keys": np.array([key.encode() for key in images], dtype=bytes),
        "others": np.array([f"{kind}\t{count}".encode() for kind, count in sorted(others.items())], dtype=bytes),
        "field": np.array([field]),
    }


def _label(
    archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path, field: str, key: str, *, required: bool
) -> str | None:
    """The labels of a member as JSON: a list of one, or {"several": [...]}; None for a JSON that holds none.

    Raises:
        InputError: no text, no JSON, or something that is neither a number nor a name.
    """
    content = archive.extractfile(member)
    data = content.read().removeprefix(b"\xef\xbb\xbf") if content else b""
    where = f"{path} member {member.name}"
    try:
        text = data.decode("utf-8").strip()
        value = json.loads(text) if field == "json" else text
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        if not required:
            return None
        raise InputError(f"{where} is no {'JSON' if field == 'json' else 'label'} in UTF-8: {error}") from None
    if field != "json":
        if text and "\n" not in text and len(text) <= _LONGEST:
            return json.dumps([text])
        if not required:
            return None
        raise InputError(f"{where}: expected a label, got {text[:20]!r}")
    if isinstance(value, dict):
        names = (key,) if key else _LABEL_KEYS
        held = next((name for name in names if name in value), None)
        if held is None:
            if required:
                raise InputError(
                    f"{where} has no {' or '.join(names)}, it has {', '.join(list(value)[:8]) or 'nothing'}"
                )
            return None
        value = value[held]
    if _is_label(value):
        return json.dumps([value])
    if isinstance(value, list) and all(map(_is_label, value)):
        return json.dumps({"several": value})
    if not required:
        return None
    raise InputError(f"{where} has the label {text[:40]!r}, expected a number, a name, or a list of them")


def _is_label(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and bool(value))


def _check_end(stream: BinaryIO, offset: int, path: Path) -> None:
    """The archive's end stands where its members end, and nothing but zeros follows: tarfile stops at less."""
    stream.seek(offset)
    mark = stream.read(2 * _BLOCK)
    if not mark.strip(b"\0") and len(mark) < 2 * _BLOCK:
        raise InputError(f"{path} is cut off: it ends at byte {offset + len(mark)}, before its end-of-archive mark")
    if mark.strip(b"\0"):
        raise InputError(
            f"{path} is damaged: what stands at byte {offset} is neither a member nor the end of the archive"
        )
    while block := stream.read(1 << 20):
        if block.strip(b"\0"):
            raise InputError(
                f"{path} goes on behind its end-of-archive mark at byte {offset}: is it several archives in one file? "
                "Unpack it and pack it as one"
            )


def _check_partners(
    path: Path, images: dict[str, tuple[str, int, int]], labels: dict[str, str], dotted: list[str], field: str
) -> None:
    without = [key for key in images if key not in labels]
    if without:
        raise InputError(
            f"{path} member {images[without[0]][0]}: an image without a label; expected {without[0]}.{field} "
            f"beside it ({len(without)} of {len(images)} images have none)"
        )
    alone = [key for key in labels if key not in images]
    if dotted and (alone or not images):
        raise _dotted(path, dotted)
    if alone:
        raise InputError(
            f"{path} member {alone[0]}.{field}: a label without an image "
            f"({len(alone)} of {len(labels)} labels have none)"
        )


def _dotted(path: Path, dotted: list[str]) -> InputError:
    stem, _, field = dotted[0].rpartition("/")[2].partition(".")
    return InputError(
        f"{path} member {dotted[0]}: a key ends at the first dot, so that its key is '{stem}' and its field "
        f"'{field}', which is no image ({len(dotted)} such members); write keys without dots"
    )
