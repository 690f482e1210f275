"""Epochs whose last batch is filled (`epoch_end: pad`): a run stopped in one ends in the bits of a whole run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pretrain import train as loop
from pretrain.data.catalog import Catalog
from pretrain.recipes import RECIPES
from pretrain.runtime.curves import read_curves
from pretrain.train import train
from pretrain.views.two_views import two_view_loader

CPU = torch.device("cpu")


class KilledError(Exception):
    """Stands for the kill."""


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "catalog.yaml").write_text("tiny: {format: shapes, size: 16, train: 13, test: 9, seed: 0}\n")
    return Catalog.load(tmp_path / "catalog.yaml").images("tiny", "train")


def test_a_stopped_padded_run_ends_in_the_same_bits(small_recipe, tiny, tmp_path, monkeypatch):
    """13 images in batches of 4: four steps an epoch, three images twice. Stopped within epochs and between them."""
    public = RECIPES["fast_moco_public_e100"]
    like_public = {name: getattr(public, name) for name in ("epoch_end", "momentum_init", "head_norm_init")}
    recipe = small_recipe(
        epochs=2, save_every_steps=1, log_every_steps=1, lr_counts_from=public.lr_counts_from, **like_public
    )
    assert recipe.epoch_end == "pad"
    whole = train(recipe, tiny, seed=5, out=tmp_path / "whole", device=CPU)
    assert whole.steps == 8
    take_step = loop._Training._step
    for stop_at in (3, 4, 7):

        def step(self, number, views, stop_at=stop_at):
            if number == stop_at:
                raise KilledError
            return take_step(self, number, views)

        monkeypatch.setattr(loop._Training, "_step", step)
        with pytest.raises(KilledError):
            train(recipe, tiny, seed=5, out=tmp_path / f"{stop_at}", device=CPU)
        monkeypatch.setattr(loop._Training, "_step", take_step)
        resumed = train(recipe, tiny, seed=5, out=tmp_path / f"{stop_at}", device=CPU)
        assert resumed.backbone_path.read_bytes() == whole.backbone_path.read_bytes(), stop_at
        steps = [point["step"] for point in read_curves(tmp_path / f"{stop_at}" / "metrics.jsonl")]
        assert steps == list(range(1, 9))


def test_a_resumed_padded_epoch_reads_what_is_left_of_it(small_recipe, tiny):
    """Each image once or twice an epoch, on any number of ranks, and from the middle on what the whole epoch had."""
    spec = small_recipe().views

    def read(**options):
        loader = two_view_loader(tiny, spec, seed=3, epoch=1, pad=True, **options)
        return [(batch[-1].tolist(), batch[0]) for batch in loader]

    epoch = read(batch_size_per_rank=4)
    counts = np.bincount([i for indices, _views in epoch for i in indices], minlength=13)
    assert (len(epoch), counts.min(), counts.max(), int((counts == 2).sum())) == (4, 1, 2, 3)
    rest = read(batch_size_per_rank=4, skip_batches=2)
    assert [indices for indices, _views in rest] == [indices for indices, _views in epoch[2:]]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(rest, epoch[2:], strict=True))
    ranks = [read(batch_size_per_rank=2, rank=rank, world_size=2) for rank in (0, 1)]
    assert [a + b for (a, _), (b, _) in zip(*ranks, strict=True)] == [indices for indices, _views in epoch]
