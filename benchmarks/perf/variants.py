"""What a step costs for each recipe of a campaign, against one of them. Paired ratios, and FLOPs.

python -m benchmarks.perf.variants SPEC.yaml [--against LABEL] [--only LABEL]... [--batch N] [--repeats R] [--out FILE]

The steps take turns on the same random images; nothing is trained and no data are read. Recipes that differ in how long
they train, or in what does not change a step, are timed once, under the first of their labels.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.campaign.spec import load_spec
from benchmarks.perf.measures.turns import count_flops, take_turns
from pretrain.model import build_model
from pretrain.optim import build_optimizer
from pretrain.recipe import Recipe
from pretrain.recipes import RECIPES, resolve_recipe
from pretrain.runtime.distributed import ALONE
from pretrain.runtime.errors import InputError, unknown
from pretrain.runtime.files import write_json
from pretrain.step import accumulate_gradients

# What says how long, on what and by which rates a recipe trains: a step costs the same whatever they are.
NOT_OF_A_STEP = {
    *("name", "source", "sources", "method", "epochs", "warmup_epochs", "train_images", "keep_epochs", "base_lr"),
    *("temperature", "workers", "save_every_steps", "log_every_steps", "online_knn_every", "momentum"),
}


def variants(spec: Path, only: list[str], batch: int | None) -> dict[str, Recipe]:
    """The recipes of a spec whose steps differ, by label.

    Raises:
        InputError: the spec is wrong, or `only` names a label that it lacks.
    """
    file = load_spec(spec)
    entries = file.spec.pretrain
    for label in only:
        if label not in entries:
            raise unknown("pretraining", label, entries)
    recipes: dict[str, Recipe] = {}
    for label, entry in entries.items():
        if only and label not in only:
            continue
        name = entry.recipe if entry.recipe in RECIPES else file.resolve(entry.recipe)
        recipe = resolve_recipe(name, entry.set | ({"global_batch_size": batch} if batch else {}))
        if not any(of_a_step(recipe) == of_a_step(other) for other in recipes.values()):
            recipes[label] = recipe
    if not recipes:
        raise InputError(f"{spec} pretrains nothing: expected a spec with `pretrain`")
    return recipes


def of_a_step(recipe: Recipe) -> dict[str, Any]:
    """The settings on which the cost of a step depends."""
    return recipe.model_dump(exclude=NOT_OF_A_STEP)


def stepper(recipe: Recipe, device: torch.device) -> Callable[[], None]:
    """A whole training step on images that stay the same: gradients, then the optimizer."""
    model = build_model(recipe, 0, device, ALONE)
    optimizer = build_optimizer(recipe, model)
    generator = torch.Generator().manual_seed(0)
    shape = (recipe.global_batch_size, 3, recipe.views.size, recipe.views.size)
    views = [
        torch.randn(shape, generator=generator).to(device).contiguous(memory_format=torch.channels_last)
        for _ in range(3 if recipe.extra_view else 2)
    ]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        accumulate_gradients(
            model,
            views,
            momentum=recipe.momentum,
            micro_batch_size=recipe.micro_batch_size,
            precision=recipe.precision,
        )
        optimizer.step()

    return step


def compare(recipes: dict[str, Recipe], against: str, repeats: int, device: torch.device) -> dict[str, Any]:
    """Time and FLOPs of a step of each recipe, and the medians and quartiles of the paired ratio to `against`'s."""
    steps = {label: stepper(recipe, device) for label, recipe in recipes.items()}
    flops = count_flops(steps)
    times = take_turns(steps, repeats, device)
    first = recipes[against]
    found: dict[str, Any] = {
        "backbone": first.backbone,
        "size": first.views.size,
        "batch": first.global_batch_size,
        "precision": first.precision,
        "where": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU seconds of one thread",
        "torch": torch.__version__.partition("+")[0],
        "rounds": repeats,
        "against": against,
        "steps": {},
    }
    for label, values in times.items():
        paired = [a / b for a, b in zip(values, times[against], strict=True)]
        low, middle, high = statistics.quantiles(paired, n=4)
        found["steps"][label] = {
            "ms": round(1e3 * statistics.median(values), 1),
            "gflop": round(flops[label] / 1e9, 2),
            "flops_ratio": round(flops[label] / flops[against], 4),
            "time_ratio": round(middle, 4),
            "quartiles": [round(low, 4), round(high, 4)],
        }
    return found


def shown(found: Mapping[str, Any]) -> str:
    """What `compare` found as text."""
    against = found["against"]
    lines = [
        "{backbone} at {size} px, batch {batch}, {precision}, {where}, torch {torch}, {rounds} rounds".format(**found),
        f"{'recipe':<24}{'ms':>8}{'GFLOP':>9}{'FLOPs / ' + against:>20}{'time / ' + against + ' (quartiles)':>36}",
    ]
    for label, step in found["steps"].items():
        low, high = step["quartiles"]
        lines.append(
            f"{label:<24}{step['ms']:>8.0f}{step['gflop']:>9.1f}{step['flops_ratio']:>20.3f}"
            f"{step['time_ratio']:>16.3f} ({low:.3f} to {high:.3f})"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("spec", type=Path)
    parser.add_argument("--against", help="the label whose step is 1; the first one when not given")
    parser.add_argument("--only", action="append", default=[], help="may be given more than once")
    parser.add_argument("--batch", type=int, help="images of a step, instead of the recipes'")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file as well")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        recipes = variants(given.spec, given.only, given.batch)
        against = given.against or next(iter(recipes))
        if against not in recipes:
            raise unknown("pretraining", against, recipes)
        found = compare(recipes, against, given.repeats, torch.device(given.device))
    except InputError as error:
        parser.error(str(error))
    print(shown(found))
    if given.out is not None:
        write_json(given.out, found)


if __name__ == "__main__":
    main()
