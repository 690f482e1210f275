"""Views made on the device, or left in uint8, in a whole training: as good as the workers', and as resumable."""

from __future__ import annotations

import shutil

import pytest
import torch

from pretrain.data.catalog import Catalog, ShapesEntry
from pretrain.runtime.curves import read_curves
from pretrain.train import train

CPU = torch.device("cpu")
DEVICE = {"views.where": "device"}


def shapes(count: int = 40):
    return Catalog({"s": ShapesEntry(format="shapes", size=24, train=count)}).images("s", "train")


def losses(folder) -> list[float]:
    return [point["loss"] for point in read_curves(folder / "metrics.jsonl")]


@pytest.mark.parametrize("changes", [DEVICE, {"views.output": "uint8"}, DEVICE | {"views.output": "uint8"}])
def test_training_sees_what_the_workers_would_have_made(small_recipe, tmp_path, changes):
    """The first loss, before an update can grow a level's difference into more; batch norm grows it as it is."""
    common = {"views.blur_p": [0.5, 0.5], "epochs": 1, "warmup_epochs": 0, "global_batch_size": 40}
    for name, own in (("workers", {}), ("other", changes)):
        train(small_recipe(**common, **own), shapes(), seed=0, out=tmp_path / name, device=CPU)
    assert losses(tmp_path / "other") == pytest.approx(losses(tmp_path / "workers"), abs=0.05)


@pytest.mark.long
@pytest.mark.parametrize("changes", [DEVICE, {"views.output": "uint8"}, {"extra_view": True}])
def test_resumed_with_other_workers_it_ends_in_the_same_bits(small_recipe, tmp_path, changes):
    recipe = small_recipe(epochs=2, save_every_steps=13, **changes)
    whole = train(recipe, shapes(), seed=1, out=tmp_path / "whole", device=CPU)
    (tmp_path / "resumed" / "state").mkdir(parents=True)
    shutil.copy(tmp_path / "whole" / "state" / "step_00000013.pt", tmp_path / "resumed" / "state")
    with_workers = recipe.override({"workers": 2})
    resumed = train(with_workers, shapes(), seed=1, out=tmp_path / "resumed", device=CPU)
    assert resumed.backbone_path.read_bytes() == whole.backbone_path.read_bytes()
