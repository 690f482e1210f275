"""Labelled images: a source of encoded images, and a set that picks rows of it and knows their labels.

Shapes: N samples, K classes, H W size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from pretrain.data.content import Contents, described
from pretrain.data.decode import decode_image
from pretrain.data.kept import keep, read_kept
from pretrain.data.names import MAX_PIXELS
from pretrain.runtime.cache import cache_root
from pretrain.runtime.files import canonical_hash


class Source:
    """Rows of encoded images; readers derive from it. Picklable, without open files or buffers.

    Attributes:
        identity: a hash of the content, whatever the path.
        notes: what of the files is not read as an image, counted, a sentence a kind.
        max_pixels: the largest image that is decoded.
    """

    max_pixels: int = MAX_PIXELS
    identity: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        raise NotImplementedError  # pragma: no cover - every reader says how

    def encoded(self, row: int) -> bytes:
        """The bytes of one image file."""
        raise NotImplementedError  # pragma: no cover - every reader says how

    def where(self, row: int) -> str:
        """A name for messages: a path, or a file and a row."""
        raise NotImplementedError  # pragma: no cover - every reader says how

    def decode(self, row: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB. Raises InputError, with the image's name, for one that does not decode."""
        return decode_image(self.encoded(row), self.where(row), max_pixels=self.max_pixels)

    def contents(self) -> Contents:
        """What the encoded images hold, by digest and header. Found once, and kept in the cache by `identity`."""
        path = cache_root() / "headers" / f"{canonical_hash(self.identity)[:32]}.npz"
        kept = read_kept(path, ("digests", "headers", "sizes"))
        if kept is None:
            found = [described(self.encoded(row)) for row in range(len(self))]
            kept = {
                "digests": np.array([list(digest) for digest, _, _ in found], dtype=np.uint8).reshape(-1, 32),
                "headers": np.array([said for _, said, _ in found], dtype=np.int32).reshape(-1, 3),
                "sizes": np.array([size for _, _, size in found], dtype=np.int64),
            }
            keep(path, kept, "what the images hold")
        return Contents(**kept)


class ImageSet:
    """Some rows of a source, with labels. Picklable, and cheap to send to workers.

    Attributes:
        name, split: of the catalog.
        classes: K names, in the order of the labels; none where the images have no labels (`unlabelled`).
        labels: int64 (N,), or bool (N, K) when `multi_label`; zeros where there are none.
        multi_label: an image may have several classes, or none.
        ignored: bool (N, K) or None; True where a label is not to be counted (VOC's "difficult" objects).
    """

    def __init__(
        self,
        source: Source,
        *,
        name: str,
        split: str,
        classes: Sequence[str],
        labels: np.ndarray,
        ignored: np.ndarray | None = None,
        rows: np.ndarray | None = None,
        lineage: tuple[str, ...] = (),
    ) -> None:
        self.name, self.split, self.classes = name, split, tuple(classes)
        self.labels, self.ignored = labels, ignored
        self.multi_label = labels.ndim == 2
        self._source = source
        self._rows = rows
        assert len(labels) == (len(source) if rows is None else len(rows))
        # Of all the source's labels, and then of the rows that each `subset` has chosen.
        self._lineage = lineage or (_hash(labels),)

    @property
    def identity(self) -> str:
        """A hash of the content and the choice of rows, whatever the path. The first to ask reads what is new."""
        identity = canonical_hash([self._source.identity, list(self.classes), self._lineage[0]])
        for chosen in self._lineage[1:]:
            identity = canonical_hash([identity, chosen])
        return identity

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"<ImageSet {self.name}/{self.split}: {len(self)} images, {len(self.classes)} classes>"

    def encoded(self, index: int) -> bytes:
        """The bytes of the image's file (JPEG, PNG, ...), for decoders of one's own."""
        return self._source.encoded(self._row(index))

    def decode(self, index: int) -> np.ndarray:
        """uint8 (H, W, 3) RGB. Raises InputError, with the image's name, for one that does not decode."""
        return self._source.decode(self._row(index))

    def where(self, index: int) -> str:
        """A name for messages: the path, or a file and a row."""
        return self._source.where(self._row(index))

    @property
    def notes(self) -> tuple[str, ...]:
        """What of the set's files is not read as an image, counted, a sentence a kind."""
        return self._source.notes

    @property
    def max_pixels(self) -> int:
        """Width times height of the largest image that is decoded; `with_max_pixels` sets it."""
        return self._source.max_pixels

    def with_max_pixels(self, max_pixels: int) -> ImageSet:
        """The same set with another limit; whoever opened it calls this before anyone reads."""
        self._source.max_pixels = max_pixels
        return self

    def headers(self, *, whole_split: bool = False) -> np.ndarray:
        """int32 (N, 3): width, height and kinds of each image by its header (`pretrain.data.headers.Header`).

        Zeros for what is no image or not there. With `whole_split` also the images that a subset leaves out.
        """
        found = self._source.contents().headers
        return found if whole_split or self._rows is None else found[self._rows]

    def digests(self) -> np.ndarray:
        """uint8 (N, 32): SHA-256 of each image's encoded bytes; zeros for what is not there."""
        found = self._source.contents().digests
        return found if self._rows is None else found[self._rows]

    def subset(self, indices: np.ndarray) -> ImageSet:
        """The images at `indices`, in that order; the classes stay."""
        indices = np.asarray(indices, dtype=np.int64)
        return ImageSet(
            self._source,
            name=self.name,
            split=self.split,
            classes=self.classes,
            labels=self.labels[indices],
            ignored=None if self.ignored is None else self.ignored[indices],
            rows=indices if self._rows is None else self._rows[indices],
            lineage=(*self._lineage, _hash(indices)),
        )

    def _row(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a set of {len(self)} images")
        index = index % len(self)
        return index if self._rows is None else int(self._rows[index])


def unlabelled(source: Source, *, name: str, split: str) -> ImageSet:
    """Images to pretrain on that have no labels: a set without classes."""
    return ImageSet(source, name=name, split=split, classes=(), labels=np.zeros(len(source), dtype=np.int64))


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
