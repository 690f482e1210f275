"""Every preset has a row, and the rows of presets that train no image are held here."""

from __future__ import annotations

import math
import re
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from benchmarks.cli import main
from evaluate import inputs
from evaluate.frozen.representation import pooled_in_windows
from evaluate.metrics import average_precision
from evaluate.protocols.conformance import HELD, PRETRAIN, rows
from evaluate.task import TASKS, protocols, resolve_protocol
from pretrain.backbones import registry
from pretrain.backbones.handover import Normalization
from pretrain.fast_moco import FastMoCo
from pretrain.optim import build_optimizer, learning_rates
from pretrain.recipes import RECIPES
from pretrain.views.two_views import epoch_order, padded

IMAGENET = 1_281_167


def facts_of(task: str) -> list[str]:
    return [name for name, row in rows()[task].items() if row.facts]


def test_every_preset_has_a_row_and_every_row_a_preset() -> None:
    presets = {task: set(protocols(task)) for task in TASKS} | {PRETRAIN: set(RECIPES)}
    assert {task: set(of_task) for task, of_task in rows().items()} == presets
    assert set(HELD) == set(presets)
    for task, of_task in rows().items():
        for name, row in of_task.items():
            assert row.facts or "this project" in row.source, f"{task} {name}: facts, or say that it is ours"


def test_a_source_that_was_read_is_named_with_its_revision() -> None:
    """A fact is of a file at a revision, or of a paper; what was seen in neither says so."""
    for task, of_task in rows().items():
        for name, row in of_task.items():
            texts = [*row.deviations, *row.not_verified]
            assert all(len(text) > 20 for text in texts), f"{task} {name}: a text cut by its commas: {texts}"
            if "this project" not in row.source:
                assert re.search(r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{7}\b|\b\d+\.\d+\.\d+\b|arXiv", row.source), (
                    f"{task} {name}"
                )


def test_the_command_shows_a_preset_s_row(monkeypatch, capsys) -> None:
    for words in (["protocols", "linear", "fast_moco"], ["recipes", "fast_moco_public_e100"]):
        monkeypatch.setattr(sys, "argv", ["fastmoco", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr().out
        assert not ended.value.code
        assert "held against  orashi/Fast-MoCo 96605b3" in told
        assert "not verified" in told
        assert "deviations" in told


@pytest.mark.parametrize("task", ["knn", "logreg", "svm"])
def test_frozen_presets_have_their_sources_numbers(task, one_percent) -> None:
    for name in facts_of(task):
        facts, protocol = dict(rows()[task][name].facts), resolve_protocol(task, name)
        size = inputs.test_input(protocol, one_percent, Normalization())
        assert [size.resize, size.crop, size.interpolation] == facts.pop("test")
        if task == "logreg":
            count, low, high = facts.pop("grid")
            np.testing.assert_allclose(protocol.grid(), np.logspace(low, high, count))
        if task == "svm":
            facts |= {"costs": list(protocol.costs)} if "costs" not in facts else {}
            width = facts.pop("width")
            assert width == (2048 if protocol.pool_px is None else 2048 * (7 - protocol.pool_px + 1) ** 2)
        facts.pop("metric")
        for key, value in facts.items():
            now = getattr(protocol, key)
            assert (list(now) if isinstance(now, tuple) else now) == value, f"{name} {key}"


def test_windows_are_avg_pool2d_of_the_last_map() -> None:
    backbone = registry.build("resnet18").eval()
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got, maps = pooled_in_windows(backbone, images, 6), backbone.maps(images)[-1]
    assert got.shape == (2, 4 * 512)
    slow = [maps[:, :, i : i + 6, j : j + 6].double().mean(dim=(2, 3)) for i in (0, 1) for j in (0, 1)]
    np.testing.assert_allclose(got.view(2, 512, 4).double(), torch.stack(slow, dim=2), rtol=1e-4, atol=1e-6)


def test_map_is_the_area_that_vissl_and_mmselfsup_compute() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores, positive = rng.normal(size=60), rng.random(60) < 0.2
        positive[0] = True
        hits, area, best, seen = positive[np.argsort(-scores)], 0.0, 0.0, len(scores)
        for rank in range(len(scores), 0, -1):  # from the lowest score up: precision never falls
            best = max(best, hits[:rank].sum() / rank)
            area += best / positive.sum() if hits[rank - 1] else 0.0
            seen -= 1
        assert average_precision(scores, positive, eleven_point=False) == pytest.approx(area, rel=1e-12)
        assert area >= average_precision_score(positive, scores) - 1e-12


@pytest.mark.parametrize("name", facts_of("detection"))
def test_detection_schedules_are_the_sources(name) -> None:
    facts, protocol = rows()["detection"][name].facts, resolve_protocol("detection", name)
    schedule = protocol.schedule()
    assert (schedule.max_iter, protocol.global_batch_size) == (facts["iterations"], facts["batch"])
    assert (protocol.momentum, protocol.weight_decay) == (facts["momentum"], facts["weight_decay"])
    for at in {0, 1, 50, facts["warmup"] - 1, facts["warmup"], *facts["steps"], *(s - 1 for s in facts["steps"])}:
        warm = 1.0 if at >= facts["warmup"] else 0.001 + 0.999 * at / facts["warmup"]
        expected = facts["lr"] * warm * facts["gamma"] ** len([s for s in facts["steps"] if at >= s])
        assert schedule.lr_at(at) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", facts_of("segmentation"))
def test_segmentation_schedules_are_the_sources(name) -> None:
    facts, protocol = rows()["segmentation"][name].facts, resolve_protocol("segmentation", name)
    total = facts["iterations"]
    assert (protocol.iterations, protocol.global_batch_size) == (total, facts["batch"])
    assert (protocol.optimizer, protocol.weight_decay) == (facts["optimizer"], facts["weight_decay"])
    for at in sorted({0, 1, 700, 1499, 1500, total // 2, int(total * 0.7), int(total * 0.9), total - 1}):
        part = at / total
        if facts["shape"] == "poly":
            expected = (facts["lr"] - facts["min_lr"]) * (1 - part) ** facts["power"] + facts["min_lr"]
        else:
            expected = facts["lr"] * 0.1 ** ((part >= 0.7) + (part >= 0.9))
        if at < facts["warmup"]:
            expected *= 1 - (1 - at / facts["warmup"]) * (1 - 1e-6)
        assert protocol.lr_at(at) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", facts_of(PRETRAIN))
def test_recipes_step_as_their_sources(name) -> None:
    facts, recipe = rows()[PRETRAIN][name].facts, RECIPES[name]
    per_epoch, epochs = facts["steps_per_epoch"], facts["epochs"]
    assert (recipe.steps_per_epoch(IMAGENET), recipe.epochs) == (per_epoch, epochs)
    assert (recipe.global_batch_size, recipe.clip_grad_norm) == (facts["batch"], facts["clip"])
    assert (recipe.optimizer, recipe.sgd_momentum) == (facts["optimizer"], facts["momentum"])
    warm, total = facts["warmup_epochs"] * per_epoch, epochs * per_epoch
    for step in sorted({0, 1, 2, warm // 2, warm - 2, warm - 1, warm, warm + 1, total // 2, total - 2, total - 1}):
        n = step + facts["counts_from"]  # what the source calls this iteration
        if n < warm:
            divided = warm - 1 if facts["counts_from"] else warm
            lr = facts["start"] + (facts["peak"] - facts["start"]) * (n - facts["counts_from"]) / divided
        else:
            lr = facts["peak"] * (1 + math.cos(math.pi * (n - warm) / (total - warm))) / 2
        found = learning_rates(recipe, step, total)
        assert found["encoder"] == pytest.approx(lr, rel=1e-9, abs=1e-15)
        assert found["predictor"] == (facts["peak"] if facts["predictor"] == "constant" else found["encoder"])


@pytest.mark.parametrize("name", ["r50_e100", "fast_moco_public_e100", "moco_v3_r50_e100"])
def test_recipes_groups_and_head_norms_are_their_sources(name) -> None:
    facts = rows()[PRETRAIN][name].facts
    small = {"backbone": "cifar_resnet20", "projector.hidden": 64, "predictor.hidden": 64}
    recipe = RECIPES[name].override(small)
    torch.manual_seed(0)
    model = FastMoCo(recipe)
    for group in build_optimizer(recipe, model).param_groups:
        decays = facts["decay_1d"] or all(parameter.ndim > 1 for parameter in group["params"])
        assert group["weight_decay"] == (facts["weight_decay"] if decays else 0.0)
    heads = (model.projector, model.predictor, model.momentum_projector)
    norms = [m for head in heads for m in head if isinstance(m, torch.nn.BatchNorm1d) and m.affine]
    scales = torch.cat([norm.weight.detach() for norm in norms])
    if facts["head_norm"] == "uniform":
        assert 0 <= scales.min() < 0.02
        assert 0.98 < scales.max() < 1
        assert scales.mean().item() == pytest.approx(0.5, abs=0.05)
        assert not torch.equal(model.projector[1].weight, model.momentum_projector[1].weight)
    else:
        assert (scales == 1).all()
    trunk = [m for m in model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all(set(norm.weight.tolist()) <= {0.0, 1.0} for norm in trunk)


def test_a_padded_epoch_has_every_image_and_as_many_twice_as_it_lacks() -> None:
    order = epoch_order(100, 3, 1)
    filled = padded(order, 112, 3, 1)
    counts = np.bincount(filled, minlength=100)
    assert (counts.min(), counts.max(), (counts == 2).sum()) == (1, 2, 12)
    assert np.array_equal(filled, padded(order, 112, 3, 1))
    assert not np.array_equal(filled[:100], order)
