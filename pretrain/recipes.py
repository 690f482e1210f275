"""The named recipes, each number with its source, and recipes from YAML files. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrain.recipe import Head, Recipe
from pretrain.runtime.errors import InputError, unknown
from pretrain.runtime.settings import load_yaml, validate
from pretrain.views.settings import VIEWS

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
        "head_norm_init": "ours: torch's default; the public code draws them (fast_moco_public_e100)",
        "epoch_end": "ours: 2502 steps of ImageNet; the public code fills one more (fast_moco_public_e100)",
        "lr_counts_from": "ours: the public code counts from 1 (fast_moco_public_e100)",
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

# The released code's. Read at 96605b3: misc.py:101-107 patches BatchNorm2d.reset_parameters, which leaves the heads'
# scales uniform (the backbone's constructor sets its own to 1); sampler.py:93-125 fills an epoch with images drawn a
# second time; scheduler.py:72-80 and 212-221 count iterations from 1; the key encoder is never a copy.
FAST_MOCO_PUBLIC_E100 = R50_E100.override(
    {
        "name": "fast_moco_public_e100",
        "momentum_init": "fresh",
        "head_norm_init": "uniform",
        "epoch_end": "pad",
        "lr_counts_from": 1,
        "sources": {
            "views": R50_E100.sources["views"],
            "momentum_init": "Fast-MoCo repository, core/utils/fastmoco_builder.py: an encoder_ema of its own draws",
            "head_norm_init": "Fast-MoCo repository, core/utils/misc.py, reset_parameters",
            "epoch_end": "Fast-MoCo repository, core/data/sampler.py, DistributedEpochSampler",
            "lr_counts_from": "Fast-MoCo repository, core/lr_scheduler/scheduler.py",
            "predictor_lr": R50_E100.sources["predictor_lr"],
            "lr_rule": R50_E100.sources["lr_rule"],
        },
    }
)

MOCO_V3_R50_E100 = Recipe(
    name="moco_v3_r50_e100",
    source=f"MoCo v3 (arXiv 2104.02057); {_MOCO_V3_CODE}",
    sources={
        "precision": "ours: the public code runs mixed precision (float16 with a scaler, main_moco.py); "
        "--set precision=bf16 is nearest to it",
    },
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
        FAST_MOCO_PUBLIC_E100,
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
