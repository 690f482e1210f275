"""Fast-MoCo: divide a view, encode its patches, combine them; each combination must find the other, whole view.

Ci, Lin, Bai, Ouyang: Fast-MoCo: Boost Momentum-based Contrastive Learning with Combinatorial Patches
(ECCV 2022, arXiv 2207.08220), section 3. With one patch, its projector and its loss scale it is MoCo v3's
(arXiv 2104.02057), algorithm 1.

Shapes: N images of this rank, M images of all ranks, C H W of a view, P patches, G combinations, D backbone width,
E width of the keys.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain import patches
from pretrain.backbones import registry
from pretrain.loss import info_nce
from pretrain.recipe import Head, Recipe
from pretrain.runtime.distributed import gather
from pretrain.runtime.errors import InputError


class ViewLoss(NamedTuple):
    """What one view's queries give: the loss term and, without gradients, the similarities watched beside it."""

    loss: Tensor
    positive: Tensor
    negative: Tensor


class MLP(nn.Sequential):
    """A head: linear layers with batch norm and ReLU between them, (N, width) -> (N, head.out)."""

    def __init__(self, width: int, head: Head) -> None:
        layers: list[nn.Module] = []
        for index in range(head.layers):
            last = index == head.layers - 1
            out = head.out if last else head.hidden
            layers.append(nn.Linear(width, out, bias=head.bias))
            if not last:
                layers += [nn.BatchNorm1d(out), nn.ReLU(inplace=True)]
            elif head.last_norm != "none":
                layers.append(nn.BatchNorm1d(out, affine=head.last_norm == "affine"))
            width = out
        super().__init__(*layers)


class FastMoCo(nn.Module):
    """Encoder (backbone, projector), predictor and momentum encoder.

    `keys` of both views come first, then `forward` gives the loss of one view's queries against the other's keys: one
    view at a time, because batch-norm statistics are per view and because the first view's activations are then free
    again before the second needs memory. `pretrain.step` puts the two together.
    """

    mixing: Tensor  # (G, P), float64: row g averages the patches of combination g

    def __init__(self, recipe: Recipe, *, seed: int = 0) -> None:
        """Fresh weights, drawn from torch's current generator; `seed` draws the combinations where they are capped.

        Raises:
            InputError: the backbone's stride leaves nothing of a patch, or the grid does not fit the view.
        """
        super().__init__()
        self.grid, self.overlap = recipe.grid, recipe.overlap
        self.combine_at = recipe.combine_at
        self.temperature = recipe.temperature
        self.loss_scale = 1.0 if recipe.loss_scale == "mean" else 2 * 2 * recipe.temperature
        self.backbone = registry.build(recipe.backbone, zero_init_residual=recipe.zero_init_residual)
        side = patches.patch_size(recipe.views.size, recipe.grid, recipe.overlap)
        if side < self.backbone.stride:
            raise InputError(
                f"grid {recipe.grid} cuts views of {recipe.views.size} pixels into patches of {side}, less than the "
                f"stride of backbone '{recipe.backbone}', {self.backbone.stride}: expected a smaller grid, a larger "
                "views.size or a backbone with a smaller stride"
            )
        self.projector = MLP(self.backbone.width, recipe.projector)
        self.predictor = MLP(recipe.projector.out, recipe.predictor)
        if recipe.momentum_init == "copy":
            self.momentum_backbone = copy.deepcopy(self.backbone)
            self.momentum_projector = copy.deepcopy(self.projector)
        else:
            self.momentum_backbone = registry.build(recipe.backbone, zero_init_residual=recipe.zero_init_residual)
            self.momentum_projector = MLP(self.backbone.width, recipe.projector)
        if recipe.head_norm_init == "uniform":
            _draw_norm_scales(self.projector, self.predictor, self.momentum_projector)
            if recipe.momentum_init == "copy":
                self.momentum_projector.load_state_dict(self.projector.state_dict())
        self.momentum_backbone.requires_grad_(False)
        self.momentum_projector.requires_grad_(False)
        rows = patches.combinations(recipe.grid**2, recipe.combine, recipe.max_combinations, seed)
        self.register_buffer("mixing", patches.mixing_matrix(rows, recipe.grid**2), persistent=False)

    @torch.no_grad()
    def update_momentum_encoder(self, momentum: float) -> None:
        """momentum_encoder <- momentum * momentum_encoder + (1 - momentum) * encoder; parameters only, no buffers."""
        keys: list[Tensor] = [*self.momentum_backbone.parameters(), *self.momentum_projector.parameters()]
        queries: list[Tensor] = [*self.backbone.parameters(), *self.projector.parameters()]
        torch._foreach_lerp_(keys, queries, 1.0 - momentum)

    @torch.no_grad()
    def keys(self, view: Tensor) -> Tensor:
        """Keys of a whole view on all ranks: (N, C, H, W) -> (M, E) of length 1, float32 or wider."""
        return gather(F.normalize(_at_least_float32(self.momentum_projector(self.momentum_backbone(view))), dim=1))

    def queries(self, view: Tensor, *, whole: bool = False) -> Tensor:
        """Queries of a view: (N, C, H, W) -> (G, N, E); `whole` leaves it undivided, (1, N, E)."""
        N = view.shape[0]
        grid = 1 if whole else self.grid
        P = grid * grid
        mixing = self.mixing if not whole else self.mixing.new_ones(1, 1)
        embeddings = self.backbone(patches.divide(view, grid, self.overlap))  # (P*N, D)
        if self.combine_at == "backbone":
            # The first linear layer commutes with the average (each row of `mixing` sums to 1), so it is applied to P
            # embeddings an image, not to G combinations.
            first, *rest = self.projector
            hidden = _mix(first(embeddings), mixing, P, N)
            for layer in rest:
                hidden = layer(hidden)
            out = self.predictor(hidden)
        elif self.combine_at == "projector":
            out = self.predictor(_mix(self.projector(embeddings), mixing, P, N))
        else:
            out = _mix(self.predictor(self.projector(embeddings)), mixing, P, N)
        return out.unflatten(0, (-1, N))

    def forward(self, view: Tensor, keys: Tensor, first: int = 0, whole: bool = False) -> ViewLoss:
        """Loss of one view's queries against the keys of the other view, or, averaged, of several.

        Args:
            view: (N, C, H, W), the query view.
            keys: (V, M, E), keys of V other views on all ranks: 1, or 2 for the extra view of the multi-crop variant.
            first: index of this rank's first image among the M.
            whole: do not divide the view.
        """
        queries = _at_least_float32(self.queries(view, whole=whole))
        with torch.autocast(view.device.type, enabled=False):
            terms = [info_nce(queries, keys_of_view, self.temperature, first) for keys_of_view in keys]
        loss, positive, negative = (torch.stack(values).mean() for values in zip(*terms, strict=True))
        return ViewLoss(loss * self.loss_scale, positive, negative)


def _draw_norm_scales(*heads: MLP) -> None:
    for head in heads:
        for module in head:
            if isinstance(module, nn.BatchNorm1d) and module.affine:
                nn.init.uniform_(module.weight)


def _mix(embeddings: Tensor, mixing: Tensor, P: int, N: int) -> Tensor:
    """(P*N, D) -> (G*N, D)."""
    return patches.combine(embeddings.unflatten(0, (P, N)), mixing).flatten(0, 1)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
