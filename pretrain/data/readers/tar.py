"""WebDataset's tar shards: indexed once, then any image is one read at its place in its shard."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import numpy as np

from pretrain.data.content import file_identity
from pretrain.data.entries import TarEntry
from pretrain.data.images import ImageSet, Source
from pretrain.data.names import SUFFIXES
from pretrain.data.places import Places
from pretrain.runtime.cache import cache_root
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import replacing
from pretrain.runtime.progress import progress

_INDEX_VERSION = 1


class Shards(Source):
    """The images of some shards; for each its shard, the offset and the length of its bytes there."""

    def __init__(self, files: list[Path], shard: np.ndarray, places: np.ndarray, keys: np.ndarray, identity: str):
        self.files, self.shard, self.places, self.keys, self.identity = files, shard, places, keys, identity

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

    A shard's members are read through once; the index is kept in the cache for as long as the shard keeps its size
    and time.

    Raises:
        InputError: a shard is missing or no plain tar, or an image without a `.cls` beside it or with one that is no
            number.
    """
    files = places.files(getattr(entry, split), name)
    indices = []
    with progress(f"index {name}/{split}", len(files), unit="shards") as bar:
        for path in files:
            indices.append(_index(path))
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
    source = Shards(
        files,
        np.repeat(np.arange(len(files)), [len(index["labels"]) for index in indices]),
        np.concatenate([index["places"] for index in indices]),
        np.concatenate([index["keys"] for index in indices]),
        hashlib.sha256("\n".join(map(file_identity, files)).encode()).hexdigest(),
    )
    return ImageSet(source, name=name, split=split, classes=classes, labels=labels)


def _index(path: Path) -> dict[str, np.ndarray]:
    status = path.stat()
    key = f"{_INDEX_VERSION}\n{path.resolve()}\n{status.st_size}\n{status.st_mtime_ns}"
    kept = cache_root() / "tar" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"
    try:
        with np.load(kept) as stored:
            return {name: stored[name] for name in ("labels", "places", "keys")}
    except (OSError, ValueError, KeyError):
        index = _read_through(path)
    with replacing(kept) as stream:
        np.savez(stream, **index)  # type: ignore[arg-type]  # its stub takes no mapping of arrays
    return index


def _read_through(path: Path) -> dict[str, np.ndarray]:
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        # "r:" takes no compression: a place in a compressed shard cannot be reached without reading all before it.
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                folder, slash, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")  # WebDataset: the key ends at the first dot
                key = folder + slash + stem
                if not member.isfile():
                    continue
                if f".{suffix.lower()}" in SUFFIXES:
                    images[key] = (member.offset_data, member.size)
                elif suffix == "cls":
                    content = archive.extractfile(member)
                    text = content.read().strip() if content else b""
                    if not text.isdigit():
                        raise InputError(f"{path} member {member.name}: expected a label in digits, got {text[:20]!r}")
                    labels[key] = int(text)
    except tarfile.TarError as error:
        raise InputError(f"{path} is no plain (uncompressed) tar file: {error}") from None
    without = [key for key in images if key not in labels]
    if without:
        raise InputError(f"{path} member {without[0]}: an image without a label; expected {without[0]}.cls beside it")
    return {
        "labels": np.array([labels[key] for key in images], dtype=np.int64),
        "places": np.array(list(images.values()), dtype=np.int64).reshape(-1, 2),
        "keys": np.array([key.encode() for key in images], dtype=bytes),
    }
