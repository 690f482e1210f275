"""Training steps to compare with: the public Fast-MoCo's, one in the manner of MoCo v3, and the backbone alone.

Each is written as its public code has it (arithmetic and order; no line of it), with two changes that one process
needs: batch norm for SyncBN, and no gathering. Shapes: N images, C H W of a view, P patches, G combinations, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain import patches
from pretrain.fast_moco import FastMoCo
from pretrain.optim import build_optimizer
from pretrain.recipe import Head, Recipe
from pretrain.step import accumulate_gradients

Views = tuple[Tensor, Tensor]
Low = Callable[[], AbstractContextManager[object]]
"""Opens the forward's precision: autocast, or nothing."""


def head(width: int, shape: Head) -> nn.Sequential:
    """The heads of both public codes: linear layers with batch norm and ReLU between."""
    layers: list[nn.Module] = []
    for number in range(shape.layers):
        last = number == shape.layers - 1
        out = shape.out if last else shape.hidden
        layers.append(nn.Linear(width, out, bias=shape.bias))
        if not last:
            layers += [nn.BatchNorm1d(out), nn.ReLU(inplace=True)]
        elif shape.last_norm != "none":
            layers.append(nn.BatchNorm1d(out, affine=shape.last_norm == "affine"))
        width = out
    return nn.Sequential(*layers)


class NaiveFastMoCo(nn.Module):
    """The public Fast-MoCo's model and loss (orashi/Fast-MoCo d4fef97, fastmoco_builder.py and infoNCE.py)."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.grid, self.combine, self.temperature = recipe.grid, recipe.combine, recipe.temperature
        self.momentum = recipe.momentum
        encoders = []
        for _ in range(2):
            resnet = torchvision.models.get_model(
                recipe.backbone, weights=None, zero_init_residual=recipe.zero_init_residual
            )
            trunk = nn.Sequential(*list(resnet.children())[:-1], nn.Flatten())
            encoders.append(nn.Sequential(trunk, head(resnet.fc.in_features, recipe.projector)))
        self.encoder, self.momentum_encoder = encoders
        self.momentum_encoder.requires_grad_(False)
        self.predictor = head(recipe.projector.out, recipe.predictor)

    def queries(self, view: Tensor) -> Tensor:
        """(N, C, H, W) -> (G*N, E): every combination through the whole projector, after the averaging."""
        N, side = len(view), view.shape[-1] // self.grid
        cells = [cell for column in view.split(side, dim=3) for cell in column.split(side, dim=2)]
        embeddings = self.encoder[0](torch.cat(cells)).split(N)
        mixed = [
            sum(chosen[1:], chosen[0]) / self.combine for chosen in itertools.combinations(embeddings, self.combine)
        ]
        return self.predictor(self.encoder[1](torch.cat(mixed)))

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """Both views (N, C, H, W) in one graph -> the loss."""
        queries = self.queries(one), self.queries(two)
        with torch.no_grad():
            for slow, fast in zip(self.momentum_encoder.parameters(), self.encoder.parameters(), strict=True):
                slow.data.mul_(self.momentum).add_(fast.data, alpha=1.0 - self.momentum)
            keys = [self.momentum_encoder(view) for view in (one, two)]
        losses = []
        for query, key in zip(queries, reversed(keys), strict=True):
            unit_key = key / key.norm(dim=-1, keepdim=True)
            for part in query.split(len(one)):
                similarity = (part / part.norm(dim=-1, keepdim=True)).mm(unit_key.T) / self.temperature
                losses.append(F.cross_entropy(similarity, torch.arange(len(one), device=one.device)))
        return torch.stack(losses).sum() / len(losses)


def naive_step(model: NaiveFastMoCo, views: Views, optimizer: torch.optim.Optimizer, low: Low) -> Tensor:
    """Forward, backward, clipping and update, as fastmoco_solver.py has them."""
    with low():
        loss = model(*views)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


class MoCoV3(nn.Module):
    """MoCo v3's ResNet model and loss (facebookresearch/moco-v3 c349e6e, moco/builder.py)."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.momentum, self.temperature = recipe.momentum, recipe.temperature
        encoders = []
        for _ in range(2):
            resnet = torchvision.models.get_model(recipe.backbone, weights=None, zero_init_residual=True)
            resnet.fc = head(resnet.fc.in_features, recipe.projector)
            encoders.append(resnet)
        self.base_encoder, self.momentum_encoder = encoders
        self.momentum_encoder.load_state_dict(self.base_encoder.state_dict())
        self.momentum_encoder.requires_grad_(False)
        self.predictor = head(recipe.projector.out, recipe.predictor)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        """Both views (N, C, H, W) in one graph -> the loss."""
        queries = [self.predictor(self.base_encoder(view)) for view in (one, two)]
        with torch.no_grad():
            for fast, slow in zip(self.base_encoder.parameters(), self.momentum_encoder.parameters(), strict=True):
                slow.data = slow.data * self.momentum + fast.data * (1.0 - self.momentum)
            keys = [self.momentum_encoder(view) for view in (one, two)]
        labels = torch.arange(len(one), device=one.device)
        terms = []
        for query, key in zip(queries, reversed(keys), strict=True):
            similarity = F.normalize(query, dim=1) @ F.normalize(key, dim=1).T / self.temperature
            terms.append(F.cross_entropy(similarity, labels) * (2 * self.temperature))
        return terms[0] + terms[1]


class LoopedLars(torch.optim.Optimizer):
    """LARS, one parameter after the other (facebookresearch/moco-v3, moco/optimizer.py)."""

    def __init__(self, params: Iterable[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": 0.9, "trust": 0.001})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                update = parameter.grad
                if parameter.ndim > 1:
                    update = update.add(parameter, alpha=group["weight_decay"])
                    size, length = parameter.norm(), update.norm()
                    one = torch.ones_like(size)
                    rate = torch.where(size > 0, torch.where(length > 0, group["trust"] * size / length, one), one)
                    update = update.mul(rate)
                state = self.state[parameter]
                if "mu" not in state:
                    state["mu"] = torch.zeros_like(parameter)
                state["mu"].mul_(group["momentum"]).add_(update)
                parameter.add_(state["mu"], alpha=-group["lr"])


def moco_v3_step(model: MoCoV3, views: Views, optimizer: torch.optim.Optimizer, low: Low) -> Tensor:
    """Forward, backward and update, as main_moco.py has them."""
    with low():
        loss = model(*views)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def our_step(
    model: FastMoCo, recipe: Recipe, views: Views, optimizer: torch.optim.Optimizer, precision: str = "float32"
) -> Tensor:
    """What `pretrain.train` does at each step, without what it watches."""
    optimizer.zero_grad(set_to_none=True)
    figures = accumulate_gradients(
        model, views, momentum=recipe.momentum, micro_batch_size=recipe.micro_batch_size, precision=precision
    )
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return figures.loss


class BackboneStep:
    """What no Fast-MoCo can avoid: the backbone over the patches of both views, forward and backward, the momentum
    backbone over the whole views, its update and the optimizer's. No heads, and a mean of squares for the loss.
    """

    def __init__(self, model: FastMoCo, recipe: Recipe) -> None:
        self.model, self.recipe = model, recipe
        self.optimizer = build_optimizer(recipe, model)

    def __call__(self, views: Views, low: Low) -> Tensor:
        """One step on views of (N, C, H, W), channels last."""
        model = self.model
        self.optimizer.zero_grad(set_to_none=True)
        with torch.no_grad(), low():
            torch._foreach_lerp_(
                list(model.momentum_backbone.parameters()),
                list(model.backbone.parameters()),
                1.0 - self.recipe.momentum,
            )
            for view in views:
                model.momentum_backbone(view)
        total = torch.zeros((), device=views[0].device)
        for view in views:
            with low():
                loss = model.backbone(patches.divide(view, self.recipe.grid)).float().square().mean()
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(model.backbone.parameters(), 1.0)
        self.optimizer.step()
        return total
