"""Labelled images: a source of encoded images, and a set that picks rows of it and knows their labels.

Shapes: N samples, K classes, H W size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from pretrain.data.decode import decode_image
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import canonical_hash

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # torchvision's ImageFolder's


class Source:
    """Rows of encoded images; readers derive from it. Picklable, without open files or buffers.

    Attributes:
        identity: a hash of the content, whatever the path.
    """

    identity: str

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
        return decode_image(self.encoded(row), self.where(row))


class ImageSet:
    """Some rows of a source, with labels. Picklable, and cheap to send to workers.

    Attributes:
        name, split: of the catalog.
        classes: K names, in the order of the labels.
        labels: int64 (N,), or bool (N, K) when `multi_label`.
        multi_label: an image may have several classes, or none.
        ignored: bool (N, K) or None; True where a label is not to be counted (VOC's "difficult" objects).
        identity: a hash of the content and the choice of rows, whatever the path.
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
        identity: str | None = None,
    ) -> None:
        self.name, self.split, self.classes = name, split, tuple(classes)
        self.labels, self.ignored = labels, ignored
        self.multi_label = labels.ndim == 2
        self._source = source
        self._rows = rows
        assert len(labels) == (len(source) if rows is None else len(rows))
        self.identity = identity or canonical_hash([source.identity, list(self.classes), _hash(labels)])

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
            identity=canonical_hash([self.identity, _hash(indices)]),
        )

    def _row(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of a set of {len(self)} images")
        index = index % len(self)
        return index if self._rows is None else int(self._rows[index])


def number_classes(found: Sequence[str], given: int | tuple[str, ...] | None, name: str) -> tuple[str, ...]:
    """The class names `found` in a set's files, checked against what its entry says of them.

    Raises:
        InputError: the numbers differ, or the entry names classes that are not there.
    """
    if given is None:
        return tuple(found)
    if isinstance(given, int):
        if given != len(found):
            raise InputError(f"data set '{name}': the catalog says {given} classes, its files have {len(found)}")
        return tuple(found)
    if set(found) - set(given):
        extra = ", ".join(sorted(set(found) - set(given))[:5])
        raise InputError(f"data set '{name}': its files have classes that the catalog does not name: {extra}")
    return given


def _hash(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
