"""WebDataset's tar shards: indexed once, then any image is one read at its place in its shard.

A member's key ends at the first dot of its base name, and what follows names its field (WebDataset's rule): of
`a/0001.jpg` and `a/0001.cls` the key is `a/0001`. Nothing is passed over in silence: an image without a label or a
label without an image, a key with two images, a name that stands twice and a shard that is cut off are refused with
counts and names; other fields and the files of operating systems are counted.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pretrain.data.content import file_identity
from pretrain.data.entries import TarEntry
from pretrain.data.images import ImageSet, Source
from pretrain.data.kept import keep, read_kept
from pretrain.data.names import SUFFIXES, is_system
from pretrain.data.places import Places
from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError
from pretrain.runtime.progress import progress

_INDEX_VERSION = 2
_BLOCK = 512  # bytes; two blocks of zeros end an archive (POSIX.1-2001, pax, "ustar Interchange Format")


class Shards(Source):
    """The images of some shards; for each its shard, the offset and the length of its bytes there."""

    def __init__(
        self,
        files: list[Path],
        shard: np.ndarray,
        places: np.ndarray,
        keys: np.ndarray,
        identity: str,
        notes: list[str],
    ) -> None:
        self.files, self.shard, self.places, self.keys, self.identity = files, shard, places, keys, identity
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self.shard)

    def encoded(self, row: int) -> bytes:
        """The bytes of one member."""
        offset, length = self.places[row].tolist()
        with self.files[self.shard[row]].open("rb") as stream:
            stream.seek(offset)
            return stream.read(length)

    def where(self, row: int) -> str:
        """The shard and the member's key."""
        return f"{self.files[self.shard[row]]} member {self.keys[row].decode()}"


def open_split(places: Places, name: str, entry: TarEntry, split: str) -> ImageSet:
    """One split of tar shards.

    A shard's members are read through once; the index is kept in the cache for as long as the shard holds the same.

    Raises:
        InputError: a shard is missing, no plain tar, or cut off; an image without a `.cls` beside it, or the reverse,
            or with one that is no number; two images of one key; a name that stands twice.
    """
    files = places.files(getattr(entry, split), name)
    identities = [file_identity(path) for path in files]
    indices = []
    with progress(f"index {name}/{split}", len(files), unit="shards") as bar:
        for path, identity in zip(files, identities, strict=True):
            indices.append(_index(path, identity))
            bar.advance()
    labels = np.concatenate([index["labels"] for index in indices])
    if not len(labels):
        raise InputError(f"data set '{name}': {files[0]} holds no image with a label")
    given = entry.classes
    classes = given if isinstance(given, tuple) else tuple(map(str, range(given or int(labels.max()) + 1)))
    if labels.min() < 0 or labels.max() >= len(classes):
        raise InputError(
            f"data set '{name}': labels run from {labels.min()} to {labels.max()}, expected 0 to {len(classes) - 1}"
        )
    others: Counter[str] = Counter()
    for index in indices:
        for line in index["others"].tolist():
            kind, _, count = line.decode().partition("\t")
            others[kind] += int(count)
    source = Shards(
        files,
        np.repeat(np.arange(len(files)), [len(index["labels"]) for index in indices]),
        np.concatenate([index["places"] for index in indices]),
        np.concatenate([index["keys"] for index in indices]),
        hashlib.sha256("\n".join(identities).encode()).hexdigest(),
        [f"{count} members '{kind}' are not read" for kind, count in sorted(others.items())],
    )
    return ImageSet(source, name=name, split=split, classes=classes, labels=labels)


def _index(path: Path, identity: str) -> dict[str, np.ndarray]:
    kept = cache_root() / "tar" / f"{hashlib.sha256(f'{_INDEX_VERSION} {identity}'.encode()).hexdigest()[:32]}.npz"
    index = read_kept(kept, ("labels", "places", "keys", "others"))
    if index is None:
        index = _read_through(path)
        keep(kept, index, f"the index of {path}")
    return index


def _read_through(path: Path) -> dict[str, np.ndarray]:
    images: dict[str, tuple[str, int, int]] = {}  # key -> the member's name, where its bytes begin, how many
    labels: dict[str, int] = {}
    others: Counter[str] = Counter()
    dotted: list[str] = []
    seen: dict[str, tarfile.TarInfo] = {}
    try:
        # "r:" takes no compression: a place in a compressed shard cannot be reached without reading all before it.
        with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
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
                elif field == "cls":
                    labels[key] = _label(archive, member, path)
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
    _check_partners(path, images, labels, dotted)
    return {
        "labels": np.array([labels[key] for key in images], dtype=np.int64),
        "places": np.array([place for _, *place in images.values()], dtype=np.int64).reshape(-1, 2),
        "keys": np.array([key.encode() for key in images], dtype=bytes),
        "others": np.array([f"{kind}\t{count}".encode() for kind, count in sorted(others.items())], dtype=bytes),
    }


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> int:
    content = archive.extractfile(member)
    text = content.read().removeprefix(b"\xef\xbb\xbf").strip() if content else b""
    if not text.isdigit():
        raise InputError(f"{path} member {member.name}: expected a label in digits, got {text[:20]!r}")
    return int(text)


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
    path: Path, images: dict[str, tuple[str, int, int]], labels: dict[str, int], dotted: list[str]
) -> None:
    unlabelled = [key for key in images if key not in labels]
    if unlabelled:
        raise InputError(
            f"{path} member {images[unlabelled[0]][0]}: an image without a label; expected {unlabelled[0]}.cls "
            f"beside it ({len(unlabelled)} of {len(images)} images have none)"
        )
    alone = [key for key in labels if key not in images]
    if dotted and (alone or not images):
        base = dotted[0].rpartition("/")[2]
        stem, _, field = base.partition(".")
        raise InputError(
            f"{path} member {dotted[0]}: a key ends at the first dot, so that its key is '{stem}' and its field "
            f"'{field}', which is no image ({len(dotted)} such members); write keys without dots"
        )
    if alone:
        raise InputError(
            f"{path} member {alone[0]}.cls: a label without an image ({len(alone)} of {len(labels)} labels have none)"
        )
