"""Features of a frozen backbone: each image once, cached by content, shared between runs and processes.

Shapes: B batch, D feature width, N samples.
"""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from evaluate.checkpoints.load import LoadedBackbone
from evaluate.guards import EachOnce, frozen
from evaluate.inputs import batches
from evaluate.representation import represent
from pretrain.backbones import fingerprint
from pretrain.data.images import ImageSet
from pretrain.data.transforms import TestTransform
from pretrain.errors import InputError
from pretrain.files import canonical_hash, replacing, write_json
from pretrain.progress import progress

log = logging.getLogger("fastmoco")

CACHE_VERSION = 1
BATCH = 128


@dataclass(frozen=True)
class Features:
    """Features of some rows of a cached file; the file is memory-mapped, so rows come into memory when taken.

    Attributes:
        values: (N_file, D) float32, read-only memory map.
        rows: (N,) int64, which rows of the file these features are, in order.
        labels: (N,) int64, or (N, K) bool for several labels an image.
        ignored: (N, K) bool or None: labels that do not count (VOC's "difficult").
    """

    values: np.ndarray
    rows: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """D."""
        return int(self.values.shape[1])

    def take(self, at: np.ndarray) -> np.ndarray:
        """(B,) positions -> (B, D) float32, a copy in memory."""
        return self.values[self.rows[at]]

    def subset(self, at: np.ndarray) -> Features:
        """These positions only, without touching the features."""
        return Features(self.values, self.rows[at], self.labels[at], None if self.ignored is None else self.ignored[at])

    def blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """(start, (<=size, D)) of all rows in order, copies; only one block is in memory at a time."""
        for start in range(0, len(self), size):
            yield start, self.take(np.arange(start, min(start + size, len(self))))

    def views(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """As `blocks`, but read-only views of the mapped file where its rows lie side by side."""
        for start in range(0, len(self), size):
            rows = self.rows[start : start + size]
            together = rows[-1] - rows[0] + 1 == len(rows) and (np.diff(rows) == 1).all()
            yield start, self.values[rows[0] : rows[-1] + 1] if together else self.values[rows]


def extract(
    backbone: LoadedBackbone,
    images: ImageSet,
    transform: TestTransform,
    device: torch.device,
    cache: Path,
    *,
    layers: int = 1,
    patch_average: bool = False,
) -> Features:
    """The features of `images`, from the cache when they are there, else computed and put there.

    The cache key is the content: fingerprint of the weights, identity of the images, the input transform and the
    representation. Several processes may ask for the same features at once: one computes, the others wait and read.

    Raises:
        InputError: an image does not decode, or the backbone gives values that are not finite.
    """
    described = {
        "version": CACHE_VERSION,
        "weights": fingerprint(backbone.module),
        "backbone": backbone.metadata.backbone,
        "padding": backbone.metadata.padding,
        "images": images.identity,
        "n": len(images),
        "input": transform.model_dump(mode="json"),
        "layers": layers,
        "patch_average": patch_average,
    }
    key = canonical_hash(described)[:32]
    path = Path(cache) / "features" / f"{key}.npy"
    values = _open(path, len(images))
    if values is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path):
            values = _open(path, len(images))  # another process may have been first
            if values is None:
                _compute(path, backbone, images, transform, device, layers, patch_average)
                write_json(path.with_suffix(".json"), {**described, "checkpoint": backbone.ref, "set": images.name})
                values = _open(path, len(images))
    assert values is not None
    return Features(values, np.arange(len(images)), images.labels, images.ignored)


def _open(path: Path, n: int) -> np.ndarray | None:
    # A file of this name was renamed into place whole. One that is damaged all the same (a full or failing disk) is
    # computed again rather than trusted.
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
    except (ValueError, EOFError) as error:
        log.warning("%s is damaged (%s): its features are computed again", path, error)
        return None
    return values if values.ndim == 2 and len(values) == n else None


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(blocking=False)
    except NotImplementedError:  # a file system without locks: two processes may both compute, and the last one renames
        yield
        return
    except TimeoutError:
        log.info("waiting for another process that computes the same features (%s)", path.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@torch.inference_mode()
def _compute(
    path: Path,
    backbone: LoadedBackbone,
    images: ImageSet,
    transform: TestTransform,
    device: torch.device,
    layers: int,
    patch_average: bool,
) -> None:
    module = (backbone.module if device.type == "cpu" else copy.deepcopy(backbone.module).to(device)).eval()
    once = EachOnce(len(images))
    what = f"features of {images.name}/{images.split}"
    with replacing(path) as stream, progress(what, len(images)) as bar, frozen(module):
        for inputs, indices in batches(images, transform, batch_size=BATCH):
            values = represent(module, inputs.to(device, non_blocking=True), layers=layers, patch_average=patch_average)
            block = np.ascontiguousarray(values.float().cpu().numpy())
            _check_finite(block, indices, images, backbone)
            if not once.counts.any():
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(images), block.shape[1])}
                np.lib.format.write_array_header_1_0(stream, header)
            stream.write(block.tobytes())
            once.saw(indices.numpy())
            bar.advance(len(block))
        once.check()


def _check_finite(block: np.ndarray, indices: torch.Tensor, images: ImageSet, backbone: LoadedBackbone) -> None:
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        bad = int(indices[int(np.flatnonzero(~finite)[0])])
        raise InputError(
            f"{backbone.ref} gives features with NaN or infinity for {images.where(bad)} "
            f"({int((~finite).sum())} of {len(finite)} images of its batch): its weights cannot be measured"
        )
