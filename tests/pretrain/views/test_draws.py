"""What is drawn for a view: distributions, streams, and the named sets of views."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from pretrain.runtime.errors import InputError
from pretrain.views.draws import draw_view, uniforms
from pretrain.views.settings import BYOL, CIFAR, MOCO_V2, named_views
from pretrain.views.two_views import epoch_order

SMALL = MOCO_V2.model_copy(update={"size": 24})


def test_the_draws_have_the_distributions_of_the_recipe() -> None:
    draws = [draw_view(BYOL, 9, 1, index, 1, 400, 600) for index in range(4000)]
    jittered = [d.jitter for d in draws if d.jitter is not None]
    for share, p in (
        (len(jittered), 0.8),
        (sum(d.gray for d in draws), 0.2),
        (sum(d.blur_sigma > 0 for d in draws), 0.1),
        (sum(d.solarize for d in draws), 0.2),
        (sum(d.flip for d in draws), 0.5),
    ):
        assert stats.binomtest(share, 4000, p).pvalue > 1e-4
    for place, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        assert stats.kstest([j[place] for j in jittered], stats.uniform(low, high - low).cdf).pvalue > 1e-4
    sigmas = [d.blur_sigma for d in draws if d.blur_sigma]
    assert stats.kstest(sigmas, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-4
    orders = np.unique([d.order for d in draws], axis=0, return_counts=True)[1]
    assert len(orders) == 24
    assert stats.chisquare(orders).pvalue > 1e-4


@pytest.mark.parametrize("shape", [(375, 500), (100, 1000), (32, 32)])
def test_crops_are_distributed_as_torchvisions(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    peer = torch.empty(3, *shape)
    transform = v2.RandomResizedCrop(9, (0.2, 1.0))
    expected = [transform.make_params([peer]) for _ in range(3000)]
    ours = [draw_view(MOCO_V2, 1, 1, index, 0, *shape).box for index in range(3000)]
    for place, name in enumerate(("top", "left", "height", "width")):
        assert stats.ks_2samp([box[place] for box in ours], [float(e[name]) for e in expected]).pvalue > 1e-4


def test_views_of_a_sample_differ_and_epochs_differ() -> None:
    keys = [(seed, epoch, index, view) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1) for view in (0, 1, 2)]
    assert len({float(uniforms(*key, 1)[0]) for key in keys}) == len(keys)
    assert uniforms(2**70 + 3, 1, 2, 1, 4).tolist() == uniforms(2**70 + 3, 1, 2, 1, 4).tolist()


def test_the_stream_never_changes() -> None:
    # Written down: a change would break the resumption of every run.
    assert uniforms(1, 2, 3, 1, 3).round(6).tolist() == STREAM
    assert epoch_order(8, 1, 2).tolist() == ORDER


STREAM = [0.739273, 0.172722, 0.540629]
ORDER = [4, 2, 0, 6, 1, 5, 7, 3]


def test_named_views_and_their_checks() -> None:
    assert named_views("byol").solarize_p == (0.0, 0.2)
    assert named_views("moco_v3").crop_scale == (0.2, 1.0)
    with pytest.raises(InputError, match="unknown set of views 'moco'"):
        named_views("moco")
    for changes, says in (
        ({"crop_scale": [0.5, 0.2]}, "the smaller one first"),
        ({"crop_scale": [0.5, 1.2]}, "at most 1"),
        ({"jitter": [0.4, 0.4, 0.4, 0.6]}, "hue's at most 0.5"),
        ({"blur_p": [0.5, 1.5]}, "blur_p"),
    ):
        with pytest.raises(InputError, match=says):
            MOCO_V2.override(changes)
    assert math.isclose(CIFAR.mean[0], 0.4914)
