"""Features of a frozen backbone: each image once, cached by content, shared between runs and processes.

Shapes: B batch, D feature width, N samples.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from filelock import FileLock

from evaluate.checkpoints.load import LoadedBackbone
from evaluate.frozen.representation import POOLED, Sees, images_at_once, laid_out, represent
from evaluate.guards import EachOnce, frozen
from evaluate.inputs import batches
from pretrain.backbones.registry import fingerprint
from pretrain.data.images import ImageSet
from pretrain.runtime.distributed import ALONE, Ranks, any_rank, barrier
from pretrain.runtime.errors import InputError, RunFailedError
from pretrain.runtime.files import canonical_hash, replacing, write_json
from pretrain.runtime.progress import progress
from pretrain.transforms import TestTransform

log = logging.getLogger("fastmoco")

CACHE_VERSION = 3  # of the decoder too: since 3, images of more than 8 bits are not white


class Stacked:
    """Several (N_i, D) arrays read as one (sum of N_i, D), without copying them together."""

    def __init__(self, parts: list[np.ndarray]) -> None:
        self.parts = parts
        self.starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape = (int(self.starts[-1]), parts[0].shape[1])

    def __getitem__(self, rows: np.ndarray | slice) -> np.ndarray:
        """(B,) rows or a slice -> (B, D), a copy."""
        at = np.arange(self.shape[0])[rows] if isinstance(rows, slice) else rows
        found = np.empty((len(at), self.shape[1]), dtype=np.float32)
        for part, start, stop in zip(self.parts, self.starts[:-1], self.starts[1:], strict=True):
            inside = (at >= start) & (at < stop)
            found[inside] = part[at[inside] - start]
        return found


@dataclass(frozen=True)
class Features:
    """Features of some rows of a cached file; the file is memory-mapped, so rows come into memory when taken.

    Attributes:
        values: (N_file, D) float32, read-only memory map (or several, stacked).
        rows: (N,) int64, which rows of the file these features are, in order.
        labels: (N,) int64, or (N, K) bool for several labels an image.
        ignored: (N, K) bool or None: labels that do not count (VOC's "difficult").
    """

    values: np.ndarray | Stacked
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

    def joined(self, other: Features) -> Features:
        """These and then `other`'s, which have the same width and one label an image, as these do."""
        assert self.ignored is None
        assert other.ignored is None
        assert isinstance(self.values, np.ndarray)
        assert isinstance(other.values, np.ndarray)
        values = Stacked([self.values, other.values])
        rows = np.concatenate([self.rows, other.rows + len(self.values)])
        return Features(values, rows, np.concatenate([self.labels, other.labels]))

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
    sees: Sees = POOLED,
    ranks: Ranks = ALONE,
) -> Features:
    """The features of `images`, from the cache when they are there, else computed and put there.

    The cache key is the content: fingerprint of the weights, identity of the images, the input transform and the
    representation. Several processes may ask for the same features at once: one computes, the others wait and read.
    The ranks of a run share the images out; all of them must call, and all must see `cache`.

    Raises:
        InputError: an image does not decode, or the backbone gives values that are not finite.
    """
    described = {
        "version": CACHE_VERSION,
        "weights": fingerprint(backbone.module),
        "backbone": backbone.metadata.backbone,
        "padding": backbone.metadata.padding,
        # Only where it is: what was cached before this was part of the key stays good.
        **({"stride_in_1x1": True} if backbone.metadata.stride_in_1x1 else {}),
        "images": images.identity,
        "n": len(images),
        "input": transform.model_dump(mode="json"),
        **sees.described(),
    }
    key = canonical_hash(described)[:32]
    path = Path(cache) / "features" / f"{key}.npy"
    if any_rank(_open(path, len(images)) is None, device):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path) if ranks.is_main else contextlib.nullcontext():
            # Rank 0 looks again, since another process may have been first while it waited.
            if any_rank(ranks.is_main and _open(path, len(images)) is None, device):
                what = f"features of {images.name}/{images.split}"
                blocks = _blocks(backbone, images, transform, device, sees, ranks)
                _write(path, len(images), _shown(blocks, what, len(images) // ranks.world_size), ranks)
                if ranks.is_main:
                    write_json(path.with_suffix(".json"), {**described, "checkpoint": backbone.ref, "set": images.name})
                barrier()
    values = _open(path, len(images))
    if values is None:
        raise RunFailedError(f"rank {ranks.rank} does not find {path}: all ranks must see the folder of the cache")
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
        # Whoever held the lock before and was killed has left what it had written so far.
        for left in path.parent.glob(f".{path.name}*.partial"):
            left.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


@torch.inference_mode()
def _blocks(
    backbone: LoadedBackbone,
    images: ImageSet,
    transform: TestTransform,
    device: torch.device,
    sees: Sees,
    ranks: Ranks,
) -> Iterator[np.ndarray]:
    """(B, D) float32, the features of this rank's share: a run of images, in their order."""
    share = images.subset(np.arange(*_share(len(images), ranks))) if ranks.world_size > 1 else images
    module = laid_out(backbone.module, device)
    assert transform.crop is not None
    at_once = images_at_once(device, transform.crop)
    once = EachOnce(len(share))
    with frozen(module):
        for inputs, indices in batches(share, transform, batch_size=at_once):
            values = represent(module, inputs.to(device, non_blocking=True), sees)
            block = np.ascontiguousarray(values.float().cpu().numpy())
            _check_finite(block, indices, share, backbone)
            once.saw(indices.numpy())
            yield block
        once.check()


def _shown(blocks: Iterator[np.ndarray], what: str, n: int) -> Iterator[np.ndarray]:
    with progress(what, n) as bar:
        for block in blocks:
            yield block
            bar.advance(len(block))


def _share(n: int, ranks: Ranks) -> tuple[int, int]:
    """(first, last + 1) of n images that this rank computes."""
    return ranks.rank * n // ranks.world_size, (ranks.rank + 1) * n // ranks.world_size


def _write(path: Path, n: int, blocks: Iterator[np.ndarray], ranks: Ranks) -> None:
    """The blocks of all ranks as one npy file of n rows. Every rank must call; all raise what one of them raises."""
    if ranks.world_size == 1:
        _write_rows(path, n, blocks)
        return
    first, end = _share(n, ranks)
    parts = [path.with_name(f".{path.name}.rank{rank}.partial") for rank in range(ranks.world_size)]
    error: InputError | RunFailedError | None = None
    try:
        _write_rows(parts[ranks.rank], end - first, blocks)
    except (InputError, RunFailedError) as told:
        error = told
    errors = [error] * ranks.world_size
    dist.all_gather_object(errors, error)
    try:
        for found in errors:
            if found is not None:
                raise found
        if ranks.is_main:
            opened = [np.load(part, mmap_mode="r") for part in parts]
            _write_rows(path, n, (part[at : at + 8192] for part in opened for at in range(0, len(part), 8192)))
        barrier()
    finally:
        parts[ranks.rank].unlink(missing_ok=True)


def _write_rows(path: Path, n: int, blocks: Iterator[np.ndarray]) -> None:
    """Write blocks (B, D), n rows in all, as a npy file; one block is in memory at a time."""
    rows = 0
    with replacing(path) as stream:
        for block in blocks:
            if not rows:
                header = {"descr": "<f4", "fortran_order": False, "shape": (n, block.shape[1])}
                np.lib.format.write_array_header_1_0(stream, header)
            stream.write(block.tobytes())
            rows += len(block)
        assert rows == n


def _check_finite(block: np.ndarray, indices: torch.Tensor, images: ImageSet, backbone: LoadedBackbone) -> None:
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        bad = int(indices[int(np.flatnonzero(~finite)[0])])
        raise InputError(
            f"{backbone.ref} gives features with NaN or infinity for {images.where(bad)} "
            f"({int((~finite).sum())} of {len(finite)} images of its batch): its weights cannot be measured"
        )
