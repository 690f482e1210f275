"""Confusion counts of each image: the bootstrap over images, each image's share of a metric, and scores made again.

Shapes: B resamples, N images, K classes, M cells of an image's confusion matrix that are not 0, over all images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evaluate.metrics import interval
from evaluate.segmentation import scores
from pretrain.runtime.errors import InputError
from pretrain.runtime.files import replacing
from results.row import Metric

NAME = "predictions/confusions.npz"
DRAWS = 1000
_SEED = 0  # the same resamples for every run, whatever its own seed


@dataclass(frozen=True)
class Confusions:
    """The confusion matrix of each image, without its empty cells.

    Attributes:
        images, classes: N and K.
        image, cell, pixels: (M,) the image, truth * K + prediction, and how many pixels.
    """

    images: int
    classes: int
    image: np.ndarray
    cell: np.ndarray
    pixels: np.ndarray

    @classmethod
    def of(cls, matrices: dict[int, np.ndarray], images: int, classes: int) -> Confusions:
        """Of (K, K) matrices by image number."""
        image, cell, pixels = [], [], []
        for number in sorted(matrices):
            flat = matrices[number].ravel()
            held = np.flatnonzero(flat)
            image.append(np.full(len(held), number, dtype=np.int32))
            cell.append(held.astype(np.int32))
            pixels.append(flat[held])
        empty: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
        return cls(images, classes, *(np.concatenate(part or empty) for part in (image, cell, pixels)))

    @classmethod
    def load(cls, path: Path) -> Confusions:
        """What `save` wrote. Raises InputError: no such file, or not whole."""
        try:
            with np.load(path, allow_pickle=False) as held:
                return cls(int(held["images"]), int(held["classes"]), held["image"], held["cell"], held["pixels"])
        except FileNotFoundError:
            raise InputError(f"no kept predictions at {path}") from None
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise InputError(f"{path} holds no confusion counts of images: {error}") from None

    def save(self, path: Path) -> None:
        """Write the counts, compressed, whole or not at all."""
        with replacing(path) as stream:
            np.savez_compressed(stream, **vars(self))

    def matrix(self) -> np.ndarray:
        """(K, K) int64 over all images."""
        flat = np.zeros(self.classes**2, dtype=np.int64)
        np.add.at(flat, self.cell, self.pixels)
        return flat.reshape(self.classes, self.classes)

    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N, K) each: pixels of a class found, pixels that are the class, pixels that are said to be it."""
        truth, said = np.divmod(self.cell, self.classes)
        found = []
        for of, kept in ((truth, truth == said), (truth, slice(None)), (said, slice(None))):
            table = np.zeros((self.images, self.classes))
            np.add.at(table, (self.image[kept], of[kept]), self.pixels[kept])
            found.append(table)
        hits, of_truth, of_said = found
        return hits, of_truth, of_said


def metrics(confusions: Confusions, classes: tuple[str, ...], main: str = "mIoU") -> list[Metric]:
    """The rows of `scores.metrics`, each with its interval by a bootstrap over the images."""
    rows = scores.metrics(confusions.matrix(), classes, confusions.images, main)
    if confusions.images < 2:
        return rows
    drawn = _resampled(confusions, classes)
    return [row.model_copy(update={"ci95": interval(drawn[row.name])}) for row in rows]


def shares(confusions: Confusions, main: str) -> np.ndarray:
    """(N,) numbers whose mean is `main` from 0 to 1 and whose spread is its error over images.

    The value plus N times its derivative with respect to the image's weight: for a ratio of sums H / U that is
    (h_i - (H / U) u_i) / U.
    """
    hits, truth, said = confusions.counts()
    if main == "aAcc":
        hits, whole = hits.sum(axis=1, keepdims=True), truth.sum(axis=1, keepdims=True)
    else:
        whole = truth + said - hits if main == "mIoU" else truth
    total = whole.sum(axis=0)
    occurs = total > 0
    ratio = hits.sum(axis=0)[occurs] / total[occurs]
    added = len(hits) * (hits[:, occurs] - ratio * whole[:, occurs]) / total[occurs]
    return ratio.mean() + added.mean(axis=1)


def _resampled(confusions: Confusions, classes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Row -> its value in each resample; a class that a resample lacks is left out of its mean, as in the set."""
    n = confusions.images
    weights = np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(float)
    hits, truth, said = (weights @ table for table in confusions.counts())
    union = truth + said - hits

    def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
        return 100 * np.divide(above, below, out=np.full(below.shape, np.nan), where=below > 0)

    iou, accuracy = ratio(hits, union), ratio(hits, truth)
    values = {
        "mIoU": np.nanmean(iou, axis=1),
        "mAcc": np.nanmean(accuracy, axis=1),
        "aAcc": ratio(hits.sum(axis=1), truth.sum(axis=1)),
        **{f"IoU/{name}": iou[:, label] for label, name in enumerate(classes)},
    }
    return {name: value[~np.isnan(value)] for name, value in values.items()}
