"""The first steps of every preset that trains, against the numbers of its source and plain arithmetic in float64."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from evaluate import task
from evaluate.checkpoints.load import LoadedBackbone
from evaluate.inputs import test_input as input_of
from evaluate.protocols import finetune, linear, semi
from evaluate.protocols.linear import LinearProtocol
from evaluate.trained import training
from evaluate.trained.train_data import probe_transform
from pretrain.data.images import ImageSet
from pretrain.data.splits import carve, few
from pretrain.runtime.curves import read_curves

TRAINED = sorted(name for name, protocol in linear.PROTOCOLS.items() if isinstance(protocol, LinearProtocol))
BATCH, EPOCHS = 60, 2


@dataclass(frozen=True)
class Source:
    """A preset in the words of its source: lr at a batch of 60 images, and how a step is made."""

    lr: float
    kind: str = "sgd"
    decay: float = 0.0
    nesterov: bool = False
    schedule: str = "by epoch"
    drop: float = 0.1
    std: float = 0.01
    head: str = "normal"

    def start(self) -> tuple[np.ndarray, np.ndarray]:
        """Weights (3, 6) and bias (3,) of the head, drawn from the seed 0 as the source draws them."""
        generator, bound = torch.Generator().manual_seed(0), 1 / math.sqrt(6)
        w, b = torch.empty(3, 6), torch.zeros(3)
        if self.head == "torch":
            w.uniform_(-bound, bound, generator=generator)
            b.uniform_(-bound, bound, generator=generator)
        elif self.head == "haiku":
            nn.init.trunc_normal_(w, std=bound, a=-2 * bound, b=2 * bound, generator=generator)
        else:
            w = torch.randn(3, 6, generator=generator) * self.std
        return w.double().numpy(), b.double().numpy()

    def lr_at(self, step: int, steps_per_epoch: int) -> float:
        """Half a cosine over the two epochs, or a drop at the second."""
        if self.schedule == "drop":
            return self.lr * (self.drop if step >= steps_per_epoch else 1.0)
        done = step // steps_per_epoch / EPOCHS if self.schedule == "by epoch" else step / (EPOCHS * steps_per_epoch)
        return self.lr * (1 + math.cos(math.pi * done)) / 2


SOURCES = {
    "moco_v2": Source(30.0, schedule="drop"),
    "moco_v3": Source(0.1 * 60 / 256),
    "simsiam": Source(0.1 * 60 / 256, kind="lars: v = m v + l g, w -= lr v"),
    "byol": Source(
        math.nan, nesterov=True, schedule="by step", head="haiku"
    ),  # of 0.4, 0.3, 0.2, 0.1, 0.05 the chosen one
    "simclr": Source(0.1 * 60 / 256, decay=1e-6, schedule="by step", std=0.0, nesterov=True),
    "swav": Source(0.3, decay=1e-6),
    "barlow_twins": Source(0.3, decay=1e-6),
    "vicreg": Source(0.02, decay=1e-6),
    "dino": Source(0.001 * 60 / 256),
    "dinov2": Source(math.nan, schedule="by step"),  # of 13 the chosen one
    "fast_moco": Source(0.8, kind="lars: v = m v + g, w -= lr l v", schedule="by step"),
    "mmselfsup": Source(1.6, kind="lars: v = m v + lr l g, w -= v"),
    "lightly": Source(0.1 * 60 / 256, schedule="by step", head="torch"),
}


def update(source: Source, w: np.ndarray, v: np.ndarray, g: np.ndarray, lr: float) -> None:
    """One step in place, momentum 0.9; the local rate of LARS is 0.001 |w| / |g|, 1 for a tensor of zeros."""
    g = g + source.decay * w
    size, length = np.linalg.norm(w), np.linalg.norm(g)
    local = 0.001 * size / length if size > 0 else 1.0
    if source.kind == "sgd":
        v[:] = 0.9 * v + g
        w -= lr * (g + 0.9 * v if source.nesterov else v)
    elif source.kind.startswith("lars: v = m v + l g"):
        v[:] = 0.9 * v + local * g
        w -= lr * v
    elif source.kind.startswith("lars: v = m v + g"):
        v[:] = 0.9 * v + g
        w -= lr * local * v
    else:
        v[:] = 0.9 * v + lr * local * g
        w -= v


def batches(job, images: ImageSet, batch: int, steps: int, *, drop_last: bool = False):
    """(inputs, labels) of the steps, from the images one by one."""
    metadata = job.backbone.metadata
    transform = probe_transform(job.protocol, input_of(job.protocol, images, metadata.normalization), job.seed)
    per_epoch = len(images) // batch if drop_last else -(-len(images) // batch)
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        rows = np.random.default_rng([job.seed, epoch]).permutation(len(images))[place * batch : (place + 1) * batch]
        yield torch.stack([transform(images.decode(int(i)), epoch, int(i)) for i in rows]), images.labels[rows]


@pytest.mark.parametrize("name", TRAINED)
def test_a_linear_preset_trains_the_head_alone_as_its_source_says(
    make_job, watching: LoadedBackbone, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = SOURCES[name]
    changes: dict[str, object] = {"global_batch_size": BATCH, "epochs": EPOCHS}
    if source.schedule == "drop":
        changes["milestones"] = "[1]"
    if name == "dinov2":
        changes |= {"steps_per_epoch": 2, "global_batch_size": 54}
    job = make_job("linear", name, changes, backbone=watching)
    groups: list[list[tuple[str, int]]] = []
    build = training.build_optimizer

    def noting(protocol, members):
        groups.append([(group, sum(parameter.numel() for parameter in parameters)) for group, parameters, _ in members])
        return build(protocol, members)

    monkeypatch.setattr(training, "build_optimizer", noting)
    rows = task.run("linear", job)
    heads = {"byol": 5, "dinov2": 13}.get(name, 1)
    head_size = 6 * 3 + 3
    assert groups[0] == ([("head", head_size)] if heads == 1 else [(f"head{i}", head_size) for i in range(heads)])
    assert groups[1:] == ([[("head", head_size)]] if name == "byol" else [])
    assert watching.module.seen == {(False, False)}  # BN in eval mode, no graph, in training and in measuring

    images, batch, lr = job.catalog.images("colours", "train"), BATCH, source.lr
    if heads > 1:
        assert rows[0].selection == "held_out"
        batch = job.protocol.global_batch_size
        lr = rows[0].detail["base_lr"] * batch / 256
    if name == "dinov2":  # the classifier that was chosen has not seen what it was chosen on
        images = images.subset(carve(images.labels, 0.1, 0)[0])
    chosen = Source(**{**source.__dict__, "lr": lr})
    (w, b), steps = source.start(), EPOCHS * 2
    velocities = np.zeros_like(w), np.zeros_like(b)
    for step, (inputs, labels) in enumerate(batches(job, images, batch, steps)):
        with torch.no_grad():
            x = watching.module(inputs).double().numpy()
        logits = x @ w.T + b
        slope = np.exp(logits - logits.max(axis=1, keepdims=True))
        slope /= slope.sum(axis=1, keepdims=True)
        slope[np.arange(len(labels)), labels] -= 1
        slope /= len(labels)
        lr = chosen.lr_at(step, steps // EPOCHS)
        update(source, w, velocities[0], slope.T @ x, lr)
        update(source, b, velocities[1], slope.sum(axis=0), lr)
    found = load_file(job.out / "head.safetensors")
    np.testing.assert_allclose(found["weight"], w, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(found["bias"], b, rtol=1e-3, atol=2e-5)


def test_lightly_leaves_out_the_last_batch_of_a_ragged_set(make_job) -> None:
    """120 images in batches of 50: two steps an epoch, and 20 other images left out in each; without it, three."""
    shape = {"global_batch_size": 50, "epochs": EPOCHS}
    job = make_job("linear", "lightly", shape)
    task.run("linear", job)
    images, source = job.catalog.images("colours", "train"), SOURCES["lightly"]
    assert len(images) == 120
    w, b = source.start()
    velocities = np.zeros_like(w), np.zeros_like(b)
    for step, (inputs, labels) in enumerate(batches(job, images, 50, 2 * EPOCHS, drop_last=True)):
        assert len(labels) == 50
        with torch.no_grad():
            x = job.backbone.module(inputs).double().numpy()
        slope = np.exp(x @ w.T + b)
        slope /= slope.sum(axis=1, keepdims=True)
        slope[np.arange(50), labels] -= 1
        lr = 0.1 * 50 / 256 * (1 + math.cos(math.pi * step / 4)) / 2
        update(source, w, velocities[0], slope.T @ x / 50, lr)
        update(source, b, velocities[1], slope.sum(axis=0) / 50, lr)
    found = load_file(job.out / "head.safetensors")
    np.testing.assert_allclose(found["weight"], w, rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(found["bias"], b, rtol=1e-3, atol=2e-5)
    assert [point["step"] for point in read_curves(job.out / "metrics.jsonl")][-1] == 4
    with_it = make_job("linear", "lightly", {**shape, "drop_last": False}, out="with")
    task.run("linear", with_it)
    assert [point["step"] for point in read_curves(with_it.out / "metrics.jsonl")][-1] == 6
    assert not np.allclose(load_file(with_it.out / "head.safetensors")["weight"], w, rtol=1e-3, atol=2e-5)


# preset -> (percent of the labels) -> lrs of trunk and head, at the batch of the test
SEMI = {
    ("swav", 1): (0.02, 5.0, Source(0, schedule="drop", drop=0.2, head="torch")),
    ("swav", 10): (0.01, 0.2, Source(0, schedule="drop", drop=0.2, head="torch")),
    ("barlow_twins", 1): (0.005, 0.5, Source(0)),
    ("barlow_twins", 10): (0.005, 0.5, Source(0)),
    ("vicreg", 1): (0.03, 0.08, Source(0)),
    ("vicreg", 10): (0.01, 0.1, Source(0)),
    ("mmselfsup", 1): (0.01, 1.0, Source(0, schedule="drop", drop=0.2, decay=5e-4)),
    ("mmselfsup", 10): (0.01, 1.0, Source(0, schedule="drop", drop=0.2, decay=5e-4)),
    ("simclr", 1): (0.05 * 3 / 256, 0.05 * 3 / 256, Source(0, nesterov=True, schedule="by step")),
    ("simclr", 10): (0.05 * 6 / 256, 0.05 * 6 / 256, Source(0, nesterov=True, schedule="by step")),
}
FINETUNE = {
    "simclr": (0.01, 0.01, Source(0, nesterov=True, decay=1e-5, schedule="by step")),
    "barlow_twins": (0.005, 0.3, Source(0, decay=1e-6)),
}


def check_tuning(job, name: str, images: ImageSet, batch: int, per_epoch: int, by_hand: tuple[float, float, Source]):
    """Run the task, then the same steps with plain autograd, both lrs by hand; head and accuracy must agree."""
    trunk_lr, head_lr, source = by_hand
    network = nn.Sequential(copy.deepcopy(job.backbone.module), nn.Linear(6, 3)).requires_grad_(True)
    with torch.no_grad():
        for parameter, values in zip(network[1].parameters(), source.start(), strict=True):
            parameter.copy_(torch.from_numpy(values))
    rows = task.run(name, job)
    velocities = {key: np.zeros(parameter.shape) for key, parameter in network.named_parameters()}
    for step, (inputs, labels) in enumerate(batches(job, images, batch, EPOCHS * per_epoch)):
        network.train()  # batch statistics
        network.zero_grad()
        nn.functional.cross_entropy(network(inputs), torch.from_numpy(labels)).backward()
        for key, parameter in network.named_parameters():
            lr = Source(**{**source.__dict__, "lr": head_lr if key.startswith("1.") else trunk_lr})
            value = parameter.detach().double().numpy()
            assert parameter.grad is not None
            update(source, value, velocities[key], parameter.grad.double().numpy(), lr.lr_at(step, per_epoch))
            parameter.data.copy_(torch.from_numpy(value))
    found = load_file(job.out / "head.safetensors")
    np.testing.assert_allclose(found["weight"], network[1].weight.detach(), rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(found["bias"], network[1].bias.detach(), rtol=1e-3, atol=2e-5)
    test = job.catalog.images("colours", "test")
    transform = input_of(job.protocol, test, job.backbone.metadata.normalization)
    with torch.no_grad():
        scores = network.eval()(torch.stack([transform(test.decode(i)) for i in range(len(test))]))
    assert rows[0].value == pytest.approx(100 * float((scores.argmax(dim=1).numpy() == test.labels).mean()))


@pytest.mark.parametrize(("name", "percent"), sorted(SEMI))
def test_a_semi_preset_trains_trunk_and_head_as_its_source_says(make_job, name: str, percent: int) -> None:
    assert {preset for preset, _percent in SEMI} == set(semi.PROTOCOLS)
    batch = 3 if percent == 1 else 6
    changes: dict[str, object] = {"percent": percent, "global_batch_size": batch, "epochs": EPOCHS}
    if SEMI[name, percent][2].schedule == "drop":
        changes["milestones"] = "[1]"
    if name == "simclr":
        changes["epochs_ten"] = EPOCHS
    job = make_job("semi", name, changes)
    images = job.catalog.images("colours", "train")
    labelled = images.subset(few(images.labels, fraction=percent / 100, seed=0))
    assert len(labelled) == (3 if percent == 1 else 12)
    check_tuning(job, "semi", labelled, batch, len(labelled) // batch, SEMI[name, percent])


@pytest.mark.parametrize("name", sorted(FINETUNE))
def test_a_finetune_preset_trains_trunk_and_head_as_its_source_says(make_job, name: str) -> None:
    assert set(FINETUNE) == set(finetune.PROTOCOLS)
    changes: dict[str, object] = {"global_batch_size": 40, "epochs": EPOCHS}
    if name == "simclr":
        changes["steps_per_epoch"] = 3
    job = make_job("finetune", name, changes)
    check_tuning(job, "finetune", job.catalog.images("colours", "train"), 40, 3, FINETUNE[name])
