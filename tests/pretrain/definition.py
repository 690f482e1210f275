"""The method, slow and obvious: loops over views, combinations and images, every formula written out.

Only the networks themselves are shared with the fast path: batch norm needs whole batches, so patches and combinations
of a view go through them together.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from pretrain.fast_moco import FastMoCo
from pretrain.recipe import Recipe


def unit(vector: Tensor) -> Tensor:
    return vector / (vector * vector).sum().sqrt()


def slow_queries(model: FastMoCo, recipe: Recipe, view: Tensor) -> list[list[Tensor]]:
    """[combination][image] -> query, for one view (N, C, H, W)."""
    N, _, H, W = view.shape
    g = recipe.grid
    h, w = H // g, W // g
    crops = [
        [view[n, :, row * h : row * h + h, column * w : column * w + w] for n in range(N)]
        for row in range(g)
        for column in range(g)
    ]
    embeddings = model.backbone(torch.stack([crop for patch in crops for crop in patch]))
    if recipe.combine_at != "backbone":
        embeddings = model.projector(embeddings)
    if recipe.combine_at == "predictor":
        embeddings = model.predictor(embeddings)
    chosen = list(itertools.combinations(range(g * g), recipe.combine))
    combined = []
    for combination in chosen:
        for n in range(N):
            total = torch.zeros_like(embeddings[0])
            for patch in combination:
                total = total + embeddings[patch * N + n]
            combined.append(total / len(combination))
    out = torch.stack(combined)
    if recipe.combine_at == "backbone":
        out = model.projector(out)
    if recipe.combine_at != "predictor":
        out = model.predictor(out)
    return [[out[c * N + n] for n in range(N)] for c in range(len(chosen))]


def slow_loss(model: FastMoCo, recipe: Recipe, views: tuple[Tensor, Tensor], momentum: float) -> Tensor:
    """The loss, after the momentum update; leaves gradients to autograd, and batch-norm buffers updated."""
    with torch.no_grad():
        for key, query in zip(model.momentum_backbone.parameters(), model.backbone.parameters(), strict=True):
            key.copy_(momentum * key + (1 - momentum) * query)
        for key, query in zip(model.momentum_projector.parameters(), model.projector.parameters(), strict=True):
            key.copy_(momentum * key + (1 - momentum) * query)
        keys = [[unit(key) for key in model.momentum_projector(model.momentum_backbone(view))] for view in views]
    terms = []
    for number, view in enumerate(views):
        other = keys[1 - number]
        for combination in slow_queries(model, recipe, view):
            for n, query in enumerate(combination):
                similarities = [(unit(query) * key).sum() / recipe.temperature for key in other]
                total = sum(torch.exp(similarity) for similarity in similarities)
                terms.append(-torch.log(torch.exp(similarities[n]) / total))
    mean = sum(terms) / len(terms)
    if recipe.loss_scale == "sum_2t":
        return 2 * mean * 2 * recipe.temperature
    return mean
