"""Recipes of pretraining: every number with its source. Imports no torch, so that planning is quick."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pretrain.errors import InputError, unknown
from pretrain.lr_rule import LrRule, scaled_lr
from pretrain.recipe_views import VIEWS, ViewsSpec
from pretrain.settings import Settings, load_yaml, validate


class Head(Settings):
    """A multi-layer perceptron: linear layers with batch norm and ReLU between them.

    Attributes:
        layers: how many linear layers.
        hidden, out: widths of the inner layers and of the output.
        bias: whether the linear layers have one.
        last_norm: batch norm on the output: with scale and shift ("affine"), without ("plain"), or none.
    """

    layers: int = Field(ge=1, le=8)
    hidden: int = Field(ge=1)
    out: int = Field(ge=1)
    bias: bool = True
    last_norm: Literal["affine", "plain", "none"] = "none"


class Recipe(Settings):
    """How weights are made. A run is a recipe, a data set and a seed.

    Attributes:
        name, source, sources: of the recipe; `sources` maps a field to its own source where that differs.
        method: what tables call weights made this way.
        backbone: a name of `pretrain.backbones.names()` or `timm:MODEL`.
        zero_init_residual: start each residual branch at zero.
        views: the augmentation of the two views.

        grid: the query view is divided into grid x grid patches (1: the view stays whole).
        overlap: how much longer than a cell of the grid a patch is, as a fraction of the cell.
        combine: r, how many of the grid**2 patches are averaged into one query.
        combine_at: where the average is taken: of the backbone's, the projector's or the predictor's output.
        max_combinations: at most this many combinations, drawn with the run's seed.
        extra_view: a third view that stays whole and is compared with the keys of both others (the multi-crop variant).
        projector, predictor: the heads.
        temperature: of InfoNCE.
        loss_scale: "mean" over all terms (Fast-MoCo), or "sum_2t": both views' means summed, times 2T (MoCo v3).
        momentum, momentum_schedule: of the key encoder; held ("constant") or raised to 1 by half a cosine ("cosine").
        momentum_init: the key encoder starts as a "copy" of the encoder, or "fresh" with draws of its own.

        optimizer: "sgd" or "lars"; sgd_momentum, weight_decay, decay_1d (biases and norm scales decay too).
        base_lr, lr_rule, reference_batch: lr at the reference batch and how it follows global_batch_size.
        warmup_epochs, warmup_start_lr: linear warm-up from warmup_start_lr (at the reference batch); then cosine to 0.
        predictor_lr: "cosine" with the rest or "constant" at its base lr, warm-up included.
        clip_grad_norm: the gradient's norm is cut to this; None leaves it.
        epochs, global_batch_size: the last incomplete batch of an epoch is left out.
        train_images: about so many images of the training split, the same part of each class, seed 0; None: all.

        cross_rank_bn: batch-norm statistics over all ranks; without, each rank has its own.
        precision: "float32", or "bf16" autocast of the forward pass.
        micro_batch_size: queries pass in parts of so many images of a rank: memory of the part, negatives of the whole
            batch, batch-norm statistics of the part. None: all at once.
        compile: torch.compile of encoder, heads and momentum encoder; on a CPU it asks for a C++ compiler.
        workers: loader processes of each rank.
        save_every_steps, keep_epochs: how often the state is saved, and after which epochs a backbone file is kept.
        log_every_steps: how often curves get a point.
        online_knn_every: epochs between measurements of kNN accuracy on a held-out tenth of train; 0: never.
    """

    name: str
    source: str
    sources: dict[str, str] = {}
    method: str = "fast_moco"
    backbone: str
    zero_init_residual: bool = False
    views: ViewsSpec

    grid: Literal[1, 2, 3] = 2
    overlap: float = Field(default=0.0, ge=0, le=1)
    combine: int = Field(default=2, ge=1, le=9)
    combine_at: Literal["backbone", "projector", "predictor"] = "backbone"
    max_combinations: int | None = Field(default=None, ge=1, le=126)
    extra_view: bool = False
    projector: Head
    predictor: Head
    temperature: float = Field(gt=0)
    loss_scale: Literal["mean", "sum_2t"] = "mean"
    momentum: float = Field(ge=0, le=1)
    momentum_schedule: Literal["constant", "cosine"] = "constant"
    momentum_init: Literal["copy", "fresh"] = "copy"

    optimizer: Literal["sgd", "lars"] = "sgd"
    sgd_momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    decay_1d: bool = True
    base_lr: float = Field(gt=0)
    lr_rule: LrRule = "linear"
    reference_batch: int = Field(ge=1)
    warmup_epochs: float = Field(default=0.0, ge=0)
    warmup_start_lr: float = Field(default=0.0, ge=0)
    predictor_lr: Literal["cosine", "constant"] = "cosine"
    clip_grad_norm: float | None = Field(default=None, gt=0)
    epochs: int = Field(ge=1)
    global_batch_size: int = Field(ge=2)
    train_images: int | None = Field(default=None, ge=2)

    cross_rank_bn: bool = True
    precision: Literal["float32", "bf16"] = "float32"
    micro_batch_size: int | None = Field(default=None, ge=2)
    compile: bool = False
    workers: int = Field(default=0, ge=0)
    save_every_steps: int = Field(default=500, ge=1)
    keep_epochs: tuple[int, ...] = ()
    log_every_steps: int = Field(default=10, ge=1)
    online_knn_every: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        patches = self.grid**2
        if self.combine > patches:
            raise ValueError(
                f"combine is {self.combine}, expected 1 to {patches}: grid {self.grid} makes {patches} patches"
            )
        if self.views.size % self.grid:
            fits = ", ".join(str(g) for g in (1, 2, 3) if self.views.size % g == 0)
            raise ValueError(f"grid {self.grid} does not divide views of {self.views.size} pixels; grid may be {fits}")
        if self.projector.out != self.predictor.out:
            raise ValueError(
                f"predictor.out is {self.predictor.out}, expected projector.out, {self.projector.out}: "
                "queries are compared with the projector's keys"
            )
        if any(epoch < 1 or epoch > self.epochs for epoch in self.keep_epochs):
            raise ValueError(f"keep_epochs is {list(self.keep_epochs)}, expected epochs from 1 to {self.epochs}")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs is {self.warmup_epochs:g}, expected fewer than epochs, {self.epochs}")
        return self

    @property
    def num_combinations(self) -> int:
        """G, the queries that one view of an image gives."""
        return min(math.comb(self.grid**2, self.combine), self.max_combinations or 126)

    @property
    def lr(self) -> float:
        """The lr the optimizer gets at its peak."""
        return scaled_lr(self.base_lr, self.lr_rule, self.reference_batch, self.global_batch_size)

    @property
    def start_lr(self) -> float:
        """The lr at the first step of the warm-up."""
        return scaled_lr(self.warmup_start_lr, self.lr_rule, self.reference_batch, self.global_batch_size)


# Fields that change neither the weights nor their meaning: a run may resume with others, and run ids leave them out.
BOOKKEEPING = frozenset({"name", "source", "sources", "workers", "save_every_steps", "keep_epochs", "log_every_steps"})

_FAST_MOCO_CODE = (
    "Fast-MoCo repository d4fef97, ssl_exp/fast_moco/fastmoco_e100/config.yaml and core/utils/fastmoco_builder.py"
)
_MOCO_V3_CODE = "moco-v3 repository c349e6e, CONFIG.md, main_moco.py and moco/builder.py"

R50_E100 = Recipe(
    name="r50_e100",
    source=f"Fast-MoCo (arXiv 2207.08220); {_FAST_MOCO_CODE}",
    sources={
        "views": "Fast-MoCo repository, core/data/imagenet_dataloader.py, MOCOV2",
        "momentum_init": "ours: the public code starts the key encoder from draws of its own, which `fresh` gives",
        "predictor_lr": "Fast-MoCo repository, core/lr_scheduler/lambda_scheduler.py: constant for the predictor",
        "lr_rule": "ours: the public code has one batch size, 512, and no rule",
    },
    backbone="resnet50",
    zero_init_residual=True,
    views=VIEWS["moco_v2"],
    grid=2,
    combine=2,
    projector=Head(layers=3, hidden=2048, out=2048, last_norm="affine"),
    predictor=Head(layers=2, hidden=512, out=2048),
    temperature=1.0,
    momentum=0.99,
    optimizer="sgd",
    weight_decay=1e-4,
    base_lr=0.1,
    reference_batch=512,
    warmup_epochs=1,
    warmup_start_lr=0.025,
    predictor_lr="constant",
    clip_grad_norm=1.0,
    epochs=100,
    global_batch_size=512,
    workers=8,
)

MOCO_V3_R50_E100 = Recipe(
    name="moco_v3_r50_e100",
    source=f"MoCo v3 (arXiv 2104.02057); {_MOCO_V3_CODE}",
    method="moco_v3",
    backbone="resnet50",
    zero_init_residual=True,
    views=VIEWS["moco_v3"],
    grid=1,
    combine=1,
    projector=Head(layers=2, hidden=4096, out=256, bias=False, last_norm="plain"),
    predictor=Head(layers=2, hidden=4096, out=256, bias=False),
    temperature=1.0,
    loss_scale="sum_2t",
    momentum=0.99,
    momentum_schedule="cosine",
    optimizer="lars",
    weight_decay=1e-6,
    decay_1d=False,
    base_lr=0.6,
    reference_batch=256,
    warmup_epochs=10,
    epochs=100,
    global_batch_size=4096,
    workers=8,
)

# Small images: chosen here, by the trials that docs/evidence tells of; no paper states them.
CIFAR_RESNET20_E20 = Recipe(
    name="cifar_resnet20_e20",
    source="ours: the recipe of Fast-MoCo at the size of CIFAR and of a batch of 256",
    sources={
        "temperature": "MoCo v2 (arXiv 2003.04297), 0.2; 1.0 needs larger batches",
        "views": "MoCo v2's augmentation without blur, as SimCLR does on CIFAR-10 (appendix B.9)",
    },
    backbone="cifar_resnet20",
    views=VIEWS["cifar"],
    projector=Head(layers=2, hidden=256, out=128, last_norm="affine"),
    predictor=Head(layers=2, hidden=128, out=128),
    temperature=0.2,
    momentum=0.99,
    weight_decay=1e-4,
    base_lr=0.1,
    reference_batch=256,
    warmup_epochs=1,
    warmup_start_lr=0.025,
    predictor_lr="constant",
    clip_grad_norm=1.0,
    epochs=20,
    global_batch_size=256,
)

# A few thousand images: small batches make many steps of them.
CIFAR_SMALL_E40 = Recipe.model_validate(
    CIFAR_RESNET20_E20.model_dump()
    | {
        "name": "cifar_small_e40",
        "source": "ours: cifar_resnet20_e20 for a few thousand images, in small batches",
        "sources": {
            "base_lr": "ours: the best of 0.1 to 2 on a tenth of train, ten epochs, 2,500 images (docs/evidence)",
            "temperature": "ours: with base_lr, the best of 0.05 to 0.4",
            "views": CIFAR_RESNET20_E20.sources["views"],
        },
        "base_lr": 1.0,
        "global_batch_size": 64,
        "epochs": 40,
    }
)

# Two minutes on one core: many small steps, and a key encoder that follows quickly. Colours tell the images of `shapes`
# apart but not their classes, so half of the views lose them and hue turns far. Chosen by kNN on a quarter of train.
SHAPES_DEMO = Recipe.model_validate(
    CIFAR_RESNET20_E20.model_dump()
    | {
        "name": "shapes_demo",
        "source": "ours: cifar_resnet20_e20 made short, for the generated shapes",
        "sources": {},
        "views": VIEWS["shapes"].model_copy(update={"jitter": (0.4,) * 4, "gray_p": 0.5, "blur_p": (0.0, 0.0)}),
        "temperature": 0.1,
        "momentum": 0.95,
        "reference_batch": 64,
        "warmup_epochs": 0.5,
        "warmup_start_lr": 0.02,
        "train_images": 2000,
        "global_batch_size": 64,
        "epochs": 6,
    }
)

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        R50_E100,
        R50_E100.override({"name": "r50_e200", "epochs": 200}),
        R50_E100.override({"name": "r50_e400", "epochs": 400}),
        MOCO_V3_R50_E100,
        MOCO_V3_R50_E100.override({"name": "moco_v3_r50_e300", "base_lr": 0.3, "epochs": 300}),
        MOCO_V3_R50_E100.override(
            {"name": "moco_v3_r50_e1000", "base_lr": 0.3, "weight_decay": 1.5e-6, "momentum": 0.996, "epochs": 1000}
        ),
        CIFAR_RESNET20_E20,
        CIFAR_RESNET20_E20.override({"name": "cifar_resnet20_e10", "epochs": 10}),
        CIFAR_RESNET20_E20.override({"name": "cifar_resnet18_e200", "backbone": "resnet18_cifar", "epochs": 200}),
        CIFAR_SMALL_E40,
        SHAPES_DEMO,
    )
}


def resolve_recipe(name_or_file: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """The named recipe, or that of a YAML file, with `changes` (dotted keys) applied.

    A file holds fields of `Recipe`; with `base: NAME` it gives only those that differ from a named recipe.

    Raises:
        InputError: no such recipe or file, an unknown field, or a value that does not fit.
    """
    text = str(name_or_file)
    if text in RECIPES:
        return RECIPES[text].override(changes or {})
    path = Path(text)
    if path.suffix not in (".yaml", ".yml"):
        raise unknown("recipe", text, [*RECIPES, "FILE.yaml"])
    content, lines = load_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: a recipe is a mapping of fields, got {type(content).__name__}")
    base = content.pop("base", None)
    if base is None:
        recipe = validate(Recipe, content, path=path, lines=lines)
    elif base not in RECIPES:
        raise InputError(f"{path}:{lines['base',]}: {unknown('recipe', base, RECIPES)}")
    else:
        name = content.pop("name", path.stem)
        recipe = RECIPES[base].override({**_dotted(content), "name": name})
    return recipe.override(changes or {})


def _dotted(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and prefix + key != "sources":
            flat |= _dotted(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
