from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from evaluate import task
from evaluate.frozen import heads, sweep
from evaluate.frozen.features import Features
from evaluate.metrics import load_correct
from pretrain.runtime.errors import InputError, RunFailedError

CPU = torch.device("cpu")


def gaussian(n: int, classes: int, width: int, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width)) * 1.5
    labels = rng.integers(0, classes, size=n)
    values = (centres[labels] + rng.normal(size=(n, width))) * np.linspace(0.1, 10, width) + 3
    return Features(values.astype(np.float32), np.arange(n), labels)


def slow_head(features: Features, classes: int, lr: float, decay: float, epochs: int, batch: int, scaling, seed: int):
    """One classifier by torch's own loss, autograd, SGD and cosine schedule, in float64."""
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, 1]).generate_state(1)[0]))
    linear = nn.Linear(features.width, classes).double()
    with torch.no_grad():
        linear.weight.copy_((torch.randn(features.width, classes, generator=generator) * 0.01).T)
        linear.bias.zero_()
    optimizer = torch.optim.SGD(linear.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
    steps = epochs * -(-len(features) // batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5 * (1 + np.cos(np.pi * t / steps)))
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(features))
        for begin in range(0, len(features), batch):
            at = np.sort(order[begin : begin + batch])
            x = torch.from_numpy(features.values[at]).double()
            if scaling is not None:
                x = (x - scaling.mean.double()) * scaling.factor.double()
            loss = nn.functional.cross_entropy(linear(x), torch.from_numpy(features.labels[at]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return linear


@pytest.mark.parametrize("standardize", [True, False])
def test_heads_trained_together_equal_heads_trained_alone_by_torch(standardize: bool) -> None:
    data = gaussian(90, 3, 6)
    scaling = heads.scaling_of(data, CPU) if standardize else None
    lrs, decays = [0.01, 0.1, 0.03], [0.0, 0.001, 0.1]
    together = heads.train_heads(
        data, 3, lrs, decays, epochs=4, batch_size=32, momentum=0.9, scaling=scaling, seed=5, device=CPU
    )
    for which in range(3):
        alone = slow_head(data, 3, lrs[which], decays[which], 4, 32, scaling, seed=5)
        np.testing.assert_allclose(together.weight[:, which].T, alone.weight.detach(), rtol=2e-4, atol=2e-5)
        np.testing.assert_allclose(together.bias[which], alone.bias.detach(), rtol=2e-4, atol=2e-5)


def test_scaling_is_the_mean_and_deviation_and_ignores_constant_features() -> None:
    values = np.random.default_rng(0).normal(1000, 2, size=(5000, 3)).astype(np.float32)
    values[:, 1] = 0.1
    scaling = heads.scaling_of(Features(values, np.arange(5000), np.zeros(5000, dtype=np.int64)), CPU)
    exact = values.astype(np.float64)
    np.testing.assert_allclose(scaling.mean, exact.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(scaling.factor[[0, 2]], 1 / exact.std(axis=0)[[0, 2]], rtol=1e-5)
    assert scaling.factor[1] == 0


def test_folded_head_gives_the_same_logits() -> None:
    data = gaussian(60, 3, 6)
    scaling = heads.scaling_of(data, CPU)
    trained = heads.train_heads(
        data, 3, [0.05], [0.0], epochs=3, batch_size=32, momentum=0.9, scaling=scaling, seed=0, device=CPU
    )
    weight, bias = trained.folded()
    logits = torch.from_numpy(data.values) @ weight.T + bias
    expected = scaling.apply_(torch.from_numpy(data.values.copy())) @ trained.weight[:, 0] + trained.bias[0]
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert heads.predict(trained, data, CPU)[0][:, 0].tolist() == logits.argmax(dim=1).tolist()


def test_run_chooses_on_a_part_of_train_and_says_so(make_job) -> None:
    job = make_job("linear", "sweep", {"lrs": "[0.0001, 0.01, 0.1]", "min_steps": 100})
    rows = task.run("linear", job)
    assert rows[0].name == "top1"
    assert {row.selection for row in rows} == {"held_out"}
    assert rows[0].value > 90
    assert load_correct(job.out, 60).mean() * 100 == pytest.approx(rows[0].value)
    told = json.loads((job.out / "sweep.json").read_text())
    assert told["held_out_images"] == 12
    assert [round(tried["lr"], 6) for tried in told["tried"]] == [0.0004, 0.04, 0.4]  # batch 1024: four times the base
    best = max(tried["top1"] for tried in told["tried"])
    assert told["tried"][told["chosen"]]["top1"] == best == rows[0].detail["held_out_score"]
    head = load_file(job.out / "head.safetensors")
    assert head["weight"].shape == (3, 6)


def test_without_refit_the_chosen_classifier_itself_is_measured(make_job) -> None:
    changes = {"lrs": "[0.01]", "min_steps": 50}
    with_refit = make_job("linear", "sweep", changes, out="a")
    without = make_job("linear", "sweep", {**changes, "refit": False}, out="b")
    assert task.run("linear", with_refit)[0].detail["refit"]
    assert not task.run("linear", without)[0].detail["refit"]
    a, b = (load_file(job.out / "head.safetensors")["weight"] for job in (with_refit, without))
    assert not torch.equal(a, b)


def test_the_same_seed_gives_the_same_bits(make_job) -> None:
    jobs = [make_job("linear", "sweep", {"min_steps": 30}, out=out) for out in ("a", "b")]
    rows = [task.run("linear", job) for job in jobs]
    assert rows[0] == rows[1]
    assert len({(job.out / "head.safetensors").read_bytes() for job in jobs}) == 1


def test_diverged_classifiers_are_never_chosen(make_job) -> None:
    rows = task.run("linear", make_job("linear", "sweep", {"lrs": "[0.01, 1e39]", "min_steps": 30}))
    assert rows[0].detail["base_lr"] == 0.01
    with pytest.raises(RunFailedError, match="all 1 classifiers diverged"):
        task.run("linear", make_job("linear", "sweep", {"lrs": "[1e39]", "min_steps": 30}))


def test_a_choice_at_the_edge_of_the_grid_is_said(make_job, caplog) -> None:
    task.run("linear", make_job("linear", "sweep", {"lrs": "[0.00001, 0.00002]", "epochs": 1, "min_steps": 1}))
    assert "at the edge of the grid" in caplog.text


def test_held_out_scores_by_hand() -> None:
    top = np.array([[[0], [1], [1], [1]], [[0], [0], [0], [1]], [[-1], [-1], [-1], [-1]]])
    labels = np.array([0, 0, 0, 1])
    np.testing.assert_allclose(sweep.held_out_scores(top, labels, "top1"), [50, 100, np.nan])
    np.testing.assert_allclose(
        sweep.held_out_scores(top, labels, "mean_per_class"), [100 * (1 / 3 + 1) / 2, 100, np.nan]
    )


def test_a_grid_must_hold_usable_values(make_job) -> None:
    with pytest.raises(InputError, match="every lr must be above 0"):
        make_job("linear", "sweep", {"lrs": "[0.1, 0]"})
    with pytest.raises(InputError, match="held_out"):
        make_job("linear", "sweep", {"held_out": 1.5})
