"""InfoNCE of all combinations at once, against keys gathered over the ranks.

Shapes: G combinations, N images on this rank, M images on all ranks, D feature width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class InfoNCE(NamedTuple):
    """The loss and what is watched beside it; all are scalars.

    Attributes:
        loss: mean over combinations and images of -log softmax(similarity / temperature) at the positive.
        positive: mean cosine similarity of a query and its key.
        negative: mean cosine similarity of a query and all other keys.
    """

    loss: Tensor
    positive: Tensor
    negative: Tensor


def info_nce(queries: Tensor, keys: Tensor, temperature: float, first: int = 0) -> InfoNCE:
    """InfoNCE (van den Oord et al. 2018) of G*N queries against M keys, with one matrix product.

    Args:
        queries: (G, N, D), of any length; they are normalised here.
        keys: (M, D), already of length 1. The key of image n is row `first + n`; all others are its negatives.
        temperature: what the similarities are divided by.
        first: index of this rank's first image among the M.
    """
    G, N, _ = queries.shape
    queries = F.normalize(queries, dim=-1).flatten(0, 1)
    similarity = queries @ keys.T  # (G*N, M)
    target = torch.arange(first, first + N, device=queries.device).repeat(G)
    loss = F.cross_entropy(similarity / temperature, target)
    with torch.no_grad():
        positive = similarity.gather(1, target[:, None]).mean()
        others = max(similarity.shape[1] - 1, 1)
        negative = (similarity.sum() / len(similarity) - positive) / others
    return InfoNCE(loss, positive, negative)


@torch.no_grad()
def spread(embeddings: Tensor) -> Tensor:
    """How far from collapse embeddings of length 1 are: std over (N, D) per dimension, times sqrt(D), averaged.

    About 1 when they fill the sphere evenly, 0 when all are the same (Chen and He 2021, figure 2, who plot it without
    the factor sqrt(D)).
    """
    return embeddings.std(dim=0, unbiased=False).mean() * embeddings.shape[1] ** 0.5
