"""Presets that train on images: what the real loop hands its optimizer, against the facts of their sources.

The definitions below share no code with the product: a schedule is a formula of the epoch, an update three lines of
float64.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from evaluate import inputs
from evaluate.frozen.representation import POOLED
from evaluate.protocols.conformance import rows
from evaluate.task import Job, resolve_protocol
from evaluate.trained.head import linear_head
from evaluate.trained.probe import Kind
from evaluate.trained.train_data import probe_transform
from evaluate.trained.training import Subject, Training
from pretrain.backbones.handover import Normalization
from pretrain.data.catalog import Catalog
from pretrain.runtime.distributed import ALONE
from pretrain.runtime.interrupt import StopRequest

HELD = [(task, name) for task in ("linear", "semi", "finetune") for name, row in rows()[task].items() if row.facts]


def lr_of(facts: dict, start: float, step: int) -> float:
    """The lr of a step by the source's formula."""
    per_epoch, epochs = facts["steps_per_epoch"], facts["epochs"]
    if facts["shape"] == "milestones":
        return start * facts["gamma"] ** len([m for m in facts["milestones"] if step // per_epoch >= m])
    part = (step // per_epoch) / epochs if facts["shape"] == "cosine_epoch" else step / (epochs * per_epoch)
    return start * (1 + math.cos(math.pi * part)) / 2


def updated(facts: dict, weight: np.ndarray, gradients: list[np.ndarray], lrs: list[float]) -> np.ndarray:
    """Weights after the updates, in float64, by the optimizer's form."""
    velocity, momentum = np.zeros_like(weight), facts["momentum"]
    for gradient, lr in zip(gradients, lrs, strict=True):
        slope = gradient + facts["weight_decay"] * weight
        local = 0.001 * np.linalg.norm(weight) / np.linalg.norm(slope)
        form = facts["optimizer"]
        if form == "sgd":
            velocity = momentum * velocity + slope
            weight = weight - lr * (slope + momentum * velocity if facts["nesterov"] else velocity)
        elif form == "lars_before_momentum":
            velocity = momentum * velocity + local * slope
            weight = weight - lr * velocity
        elif form == "lars_after_momentum":
            velocity = momentum * velocity + slope
            weight = weight - lr * local * velocity
        else:
            assert form == "lars_lr_in_momentum"
            velocity = momentum * velocity + lr * local * slope
            weight = weight - velocity
    return weight


class Matrices(nn.Module):
    """One matrix a group; the gradient of each is what is handed in as images."""

    def __init__(self, count: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.each = nn.ParameterList([nn.Parameter(torch.randn(3, 4, generator=generator)) for _ in range(count)])

    def forward(self, gradient: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.stack([(matrix * gradient).sum() for matrix in self.each]).sum()


class Weights(Subject):
    """Groups of one matrix each."""

    def __init__(self, base_lrs: dict[str, float]) -> None:
        self.module = Matrices(len(base_lrs))
        self.groups = [(name, [m], lr) for (name, lr), m in zip(base_lrs.items(), self.module.each, strict=True)]

    def inputs_of(self, images: torch.Tensor) -> torch.Tensor:
        return images

    def measure(self) -> np.ndarray:
        raise AssertionError("nothing is measured here")


def training(task: str, name: str, images, out) -> Training:
    protocol = resolve_protocol(task, name)
    if task == "semi":
        protocol = protocol.tuned()
    if task == "linear":
        several = len(protocol.base_lrs) > 1
        base = {f"head{i}" if several else "head": lr for i, lr in enumerate(protocol.base_lrs)}
        assert Kind(POOLED, protocol.base_lrs[0]).base_lr == protocol.base_lrs[0]
    else:
        base = {"trunk": protocol.trunk_lr, "head": protocol.head_lr}
    job = Job(None, Catalog(), "big", protocol, 0, torch.device("cpu"), out, out)
    return Training(job, Weights(base), images, None, images.labels, ALONE, StopRequest(), None)


@pytest.mark.parametrize(("task", "name"), HELD)
def test_schedule_groups_and_updates_are_the_sources(task, name, imagenet, one_percent, tmp_path) -> None:
    facts = rows()[task][name].facts
    loop = training(task, name, one_percent if task == "semi" else imagenet, tmp_path)
    assert loop.steps_per_epoch == facts["steps_per_epoch"]
    assert loop.protocol.global_batch_size == facts["batch"]
    assert loop.steps == facts["epochs"] * facts["steps_per_epoch"]
    groups = {group["name"]: group for group in loop.optimizer.param_groups}
    assert set(facts["lr"]) <= set(groups)
    assert task == "linear" or set(facts["lr"]) == set(groups)
    per_epoch = facts["steps_per_epoch"]
    within = (0, per_epoch // 2, per_epoch - 1)
    steps = sorted({epoch * per_epoch + at for epoch in range(facts["epochs"]) for at in within})
    assert steps[-1] == loop.steps - 1
    still = torch.zeros(3, 4)
    for step in steps:
        loop._step(loop.subject.module, step, still, torch.zeros(1))
        for group, start in facts["lr"].items():
            assert groups[group]["lr"] == pytest.approx(lr_of(facts, start, step), rel=1e-9, abs=1e-15)
    # Another loop, and gradients that are no zeros.
    loop = training(task, name, one_percent if task == "semi" else imagenet, tmp_path)
    group = next(iter(facts["lr"]))
    at = [g["name"] for g in loop.optimizer.param_groups].index(group)
    before = loop.subject.module.each[at].detach().double().numpy()
    gradients = [torch.randn(3, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    for step, gradient in enumerate(gradients):
        loop._step(loop.subject.module, step * per_epoch, gradient, torch.zeros(1))
    lrs = [lr_of(facts, facts["lr"][group], step * per_epoch) for step in range(3)]
    expected = updated(facts, before, [gradient.double().numpy() for gradient in gradients], lrs)
    np.testing.assert_allclose(loop.subject.module.each[at].detach().numpy(), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("task", "name"), HELD)
def test_the_head_starts_as_the_sources(task, name) -> None:
    protocol, kind = resolve_protocol(task, name), rows()[task][name].facts["head"]
    protocol = protocol.tuned() if task == "semi" else protocol
    D, K = 400, 500
    head = linear_head(D, K, protocol, 0)
    weight, bias = head.weight.detach().double(), head.bias.detach().double()
    bound = 1 / math.sqrt(D)
    if kind["kind"] == "zero":
        assert not weight.any()
    elif kind["kind"] == "normal":
        assert weight.std().item() == pytest.approx(kind["std"], rel=0.01)
        assert weight.abs().max().item() > 4 * kind["std"]
    elif kind["kind"] == "torch":
        assert weight.abs().max().item() == pytest.approx(bound, rel=1e-3)
        assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    else:  # a normal distribution cut at two standard deviations has 0.8796 of its spread
        assert weight.abs().max().item() == pytest.approx(2 * bound, rel=1e-3)
        assert weight.std().item() == pytest.approx(0.8796 * bound, rel=0.01)
    assert bool(bias.any()) == (kind["kind"] == "torch")


@pytest.mark.parametrize(("task", "name"), HELD)
def test_images_are_the_sources_and_normalised_as_the_weights_say(task, name, one_percent) -> None:
    facts, protocol = rows()[task][name].facts, resolve_protocol(task, name)
    theirs = Normalization(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    test = inputs.test_input(protocol, one_percent, theirs)
    assert [test.resize, test.crop, test.interpolation] == facts["test"]
    train = probe_transform(protocol, test, 0)
    side, interpolation, low = facts["train"]
    assert (train.spec.size, train.spec.interpolation, train.spec.crop_scale) == (side, interpolation, (low, 1.0))
    assert train.spec.flip_p == 0.5
    assert test.normalization == train.normalization == theirs
    job = Job(None, None, "big", protocol.model_copy(update={"metric": "top1"}), 0, torch.device("cpu"), None, None)
    assert inputs.main_metric(job, False) == facts["metric"]
