"""Measure a segmentor on the test split: every image once, shared out over the ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from evaluate.guards import EachOnce
from evaluate.segmentation.library import quiet
from evaluate.segmentation.samples import TestImages, test_batches
from evaluate.segmentation.scores import confusion
from evaluate.segmentation.tallies import Confusions
from pretrain.data.readers.masks import MaskSet
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.progress import progress

if TYPE_CHECKING:
    from mmseg.models.segmentors import EncoderDecoder


@torch.no_grad()
def measure(
    segmentor: EncoderDecoder, images: TestImages, device: torch.device, ranks: Ranks, keep: list[int]
) -> tuple[Confusions, dict[int, np.ndarray]]:
    """The confusion counts of every image, the same on every rank, and the label maps of some images.

    Args:
        segmentor: put back into the mode it came in.
        images: the split at test size.
        device: where the segmentor is.
        ranks: this one measures images rank, rank + world_size, ...
        keep: numbers of the images whose predictions are wanted; a rank returns those it measured.
    """
    masks: MaskSet = images.masks
    mine = list(range(ranks.rank, len(masks), ranks.world_size))
    matrices: dict[int, np.ndarray] = {}
    seen = EachOnce(len(mine))
    kept: dict[int, np.ndarray] = {}
    trained = segmentor.training
    segmentor.eval()
    with progress(f"measuring {masks.name} {masks.split}", len(mine)) as bar, quiet():
        for place, (index, batch) in enumerate(zip(mine, test_batches(images, mine, device), strict=True)):
            data = segmentor.data_preprocessor(batch, False)
            (result,) = segmentor(**data, mode="predict")
            labels = result.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8)
            matrices[index] = confusion(masks.mask(index), labels, segmentor.num_classes)
            seen.saw(np.array([place]))
            if index in keep:
                kept[index] = labels
            bar.advance()
    segmentor.train(trained)
    seen.check()
    if ranks.world_size > 1:
        shares: list[dict[int, np.ndarray]] = [{} for _ in range(ranks.world_size)]
        dist.all_gather_object(shares, matrices)
        matrices = {index: matrix for share in shares for index, matrix in share.items()}
    return Confusions.of(matrices, len(masks), segmentor.num_classes), kept
