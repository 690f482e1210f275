"""Protocols that train through the images: every preset end to end, and its first steps by independent arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from evaluate import guards, task
from evaluate.metrics import load_correct
from evaluate.protocols import finetune, linear, semi
from evaluate.protocols.linear import LinearProtocol
from evaluate.semi import simclr_list
from evaluate.trained.lars import LarsAfterMomentum, LarsLrInMomentum
from evaluate.trained.train_data import rows_of_step
from evaluate.trained.training import build_optimizer
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import InputError, Interrupted, RunFailedError
from pretrain.runtime.interrupt import StopRequest

TRAINED = sorted(name for name, protocol in linear.PROTOCOLS.items() if isinstance(protocol, LinearProtocol))

# preset -> (optimizer, lr of the first step at the preset's own batch, batch, epochs, wd), from the sources by hand
BY_HAND = {
    "moco_v2": ("sgd", 30.0, 256, 100, 0.0),
    "moco_v3": ("sgd", 0.4, 1024, 90, 0.0),
    "simsiam": ("lars", 1.6, 4096, 90, 0.0),
    "simclr": ("sgd", 1.6, 4096, 90, 1e-6),
    "swav": ("sgd", 0.3, 256, 100, 1e-6),
    "barlow_twins": ("sgd", 0.3, 256, 100, 1e-6),
    "vicreg": ("sgd", 0.02, 256, 100, 1e-6),
    "dino": ("sgd", 0.004, 1024, 100, 0.0),
    "fast_moco": ("lars", 0.8, 4096, 90, 0.0),
    "mmselfsup": ("lars", 1.6, 4096, 90, 0.0),
    "lightly": ("sgd", 0.1, 256, 90, 0.0),
}


@pytest.mark.parametrize("name", sorted(BY_HAND))
def test_the_numbers_of_the_presets(name: str) -> None:
    protocol = linear.PROTOCOLS[name]
    assert isinstance(protocol, LinearProtocol)
    optimizer, lr, batch, epochs, decay = BY_HAND[name]
    assert (protocol.optimizer, protocol.global_batch_size, protocol.epochs) == (optimizer, batch, epochs)
    assert protocol.weight_decay == decay
    assert protocol.lr_at(protocol.base_lrs[0], 0, 100) == pytest.approx(lr)


def test_lr_per_step() -> None:
    moco, cosine, byol = (linear.PROTOCOLS[name] for name in ("moco_v2", "moco_v3", "byol"))
    assert [moco.lr_at(30.0, epoch * 5, 5) for epoch in (0, 59, 60, 79, 80, 99)] == pytest.approx(
        [30, 30, 3, 3, 0.3, 0.3]
    )
    # by epoch: constant within one
    assert cosine.lr_at(0.1, 7, 5) == cosine.lr_at(0.1, 5, 5) == pytest.approx(0.2 * (1 + math.cos(math.pi / 90)))
    # by step
    assert byol.lr_at(0.2, 7, 5) == pytest.approx(0.8 * 0.5 * (1 + math.cos(math.pi * 7 / 400)))


def test_another_batch_derives_the_lr_anew_and_says_so() -> None:
    preset = linear.PROTOCOLS["moco_v3"]
    assert isinstance(preset, LinearProtocol)
    smaller = preset.override({"global_batch_size": 128})
    assert smaller.lr_at(0.1, 0, 10) == pytest.approx(0.05)
    line = smaller.lr_line({"head": 0.1}, preset)
    assert line == (
        "moco_v3: lr at global batch 128, linear rule: head 0.05 = 0.1 x 128/256; the preset's batch is 1024"
    )
    fixed = linear.PROTOCOLS["moco_v2"].override({"global_batch_size": 32})
    assert fixed.lr_at(30.0, 0, 10) == 30.0


def _lars_by_hand(form: str, w, gradients, lrs, momentum=0.9, trust=0.001):
    w, v = w.astype(np.float64), np.zeros_like(w, dtype=np.float64)
    for g, lr in zip(gradients, lrs, strict=True):
        size, length = np.linalg.norm(w), np.linalg.norm(g)
        local = trust * size / length if size > 0 and length > 0 else 1.0
        if form == "before_momentum":
            v = momentum * v + local * g
            w = w - lr * v
        elif form == "after_momentum":
            v = momentum * v + g
            w = w - lr * local * v
        else:
            v = momentum * v + lr * local * g
            w = w - v
    return w


@pytest.mark.parametrize("form", ["before_momentum", "after_momentum", "lr_in_momentum"])
@pytest.mark.parametrize("shape", [(3, 4), (4,)])
def test_lars_forms_against_float64(form: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    start = np.zeros(shape) if len(shape) == 1 else rng.normal(size=shape)
    gradients, lrs = [rng.normal(size=shape) for _ in range(4)], [1.6, 1.2, 0.5, 0.1]
    parameter = nn.Parameter(torch.tensor(start))
    protocol = linear.PROTOCOLS["simsiam"].override({"lars_form": form})
    optimizer = build_optimizer(protocol, [("head", [parameter], 0.1)])
    kinds = {"after_momentum": LarsAfterMomentum, "lr_in_momentum": LarsLrInMomentum}
    assert isinstance(optimizer, kinds.get(form, object))
    for gradient, lr in zip(gradients, lrs, strict=True):
        parameter.grad = torch.tensor(gradient)
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step()
    np.testing.assert_allclose(parameter.detach(), _lars_by_hand(form, start, gradients, lrs), rtol=1e-9)


@pytest.mark.parametrize("name", TRAINED)
def test_every_linear_preset_runs_end_to_end(make_job, name: str) -> None:
    changes: dict[str, object] = {"global_batch_size": 32, "epochs": 2, "held_out": 0.1}
    if name == "dinov2":
        changes["steps_per_epoch"] = 4
    if name == "moco_v2":
        changes["milestones"] = "[1]"
    job = make_job("linear", name, changes)
    rows = task.run("linear", job)
    several = name in ("byol", "dinov2")
    assert [row.selection for row in rows] == ["held_out"] * 2 if several else ["last"] * 2 + ["best"] * 2
    assert rows[0].name == "top1"
    assert load_correct(job.out, 60).mean() * 100 == pytest.approx(rows[0].value)
    if not several:
        assert rows[2].value >= rows[0].value
    assert not list((job.out / "state").glob("*.pt"))


def test_the_first_steps_of_a_preset_equal_plain_torch(make_job, mean_colour) -> None:
    """moco_v3 at batch 60 for two epochs: the head equals one trained by torch.optim.SGD on the same inputs."""
    from safetensors.torch import load_file

    from evaluate.inputs import test_input
    from evaluate.trained.train_data import probe_transform

    job = make_job("linear", "moco_v3", {"global_batch_size": 60, "epochs": 2})
    task.run("linear", job)
    images = job.catalog.images("colours", "train")
    transform = probe_transform(job.protocol, test_input(job.protocol, images, mean_colour.metadata.normalization), 0)
    head = nn.Linear(6, 3)
    with torch.no_grad():
        head.weight.copy_(torch.randn(3, 6, generator=torch.Generator().manual_seed(0)) * 0.01)
        head.bias.zero_()
    optimizer = torch.optim.SGD(head.parameters(), lr=1.0, momentum=0.9)
    for epoch in range(2):
        order = np.random.default_rng([0, epoch]).permutation(120)
        for batch in (order[:60], order[60:]):
            inputs = torch.stack([transform(images.decode(i), epoch, int(i)) for i in batch])
            optimizer.param_groups[0]["lr"] = 0.1 * 60 / 256 * 0.5 * (1 + math.cos(math.pi * epoch / 2))
            loss = nn.functional.cross_entropy(head(mean_colour.module(inputs)), torch.from_numpy(images.labels[batch]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    found = load_file(job.out / "head.safetensors")
    np.testing.assert_allclose(found["weight"], head.weight.detach(), atol=1e-6)
    np.testing.assert_allclose(found["bias"], head.bias.detach(), atol=1e-6)


@pytest.mark.parametrize("name", sorted(semi.PROTOCOLS))
@pytest.mark.parametrize("percent", [1, 10])
def test_every_semi_preset_runs_end_to_end(make_job, name: str, percent: int) -> None:
    changes: dict[str, object] = {"percent": percent, "global_batch_size": 3, "epochs": 2}
    if name in ("swav", "mmselfsup"):
        changes["milestones"] = "[1]"
    if name == "simclr":
        changes["epochs_ten"] = 2
    job = make_job("semi", name, changes)
    rows = task.run("semi", job)
    assert [row.selection for row in rows] == ["last"] * 2 + ["best"] * 2


@pytest.mark.parametrize(
    ("changes", "images", "trunk_lr"),
    [
        ({"percent": 3}, 3, 0.02),
        ({"percent": 25}, 30, 0.01),
        ({"percent": 12.5}, 15, 0.01),
        ({"per_class": 2}, 6, 0.01),
    ],
)
def test_any_share_of_the_labels(make_job, caplog, monkeypatch, changes, images: int, trunk_lr: float) -> None:
    told = {}

    def remember(job, train, test, preset):
        told.update(images=len(train), counts=set(np.bincount(train.labels).tolist()), trunk_lr=job.protocol.trunk_lr)
        return []

    monkeypatch.setattr("evaluate.semi.tune", remember)
    caplog.set_level("INFO", "fastmoco")
    job = make_job("semi", "swav", changes)
    task.run("semi", job)
    assert told == {"images": images, "counts": {images // 3}, "trunk_lr": trunk_lr}
    assert f"{images} of 120 images" in caplog.text
    assert "'swav' says 1 and 10 %" in caplog.text


def test_a_share_is_one_number_however_it_is_written() -> None:
    written = [semi.PROTOCOLS["swav"].override({"percent": text}).model_dump_json() for text in ("10", "10.0", "1e1")]
    assert len(set(written)) == 1
    dumped = semi.PROTOCOLS["swav"].model_dump(mode="json")
    assert "per_class" not in semi.SemiProtocol.identity_of(dumped)  # the ids of what is measured stay
    assert dumped["percent"] == 1


@pytest.mark.parametrize("name", sorted(finetune.PROTOCOLS))
def test_every_finetune_preset_runs_and_changes_the_backbone_of_its_copy_alone(
    make_job, mean_colour, name: str
) -> None:
    before = guards.fingerprint(mean_colour.module)
    changes: dict[str, object] = {"global_batch_size": 40, "epochs": 2}
    if name == "simclr":
        changes["steps_per_epoch"] = 3
    rows = task.run("finetune", make_job("finetune", name, changes))
    assert rows[0].selection == "last"
    assert guards.fingerprint(mean_colour.module) == before


def test_a_stopped_run_resumes_to_the_same_bits(make_job, monkeypatch) -> None:
    changes: dict[str, object] = {"global_batch_size": 16, "epochs": 3}
    whole = make_job("linear", "moco_v3", changes, out="whole")
    rows = task.run("linear", whole)
    looks = 0

    def stop_at_eleven(self) -> bool:
        nonlocal looks
        looks += 1
        if looks == 11:
            self.signum = 15
        return self.signum is not None

    stopped = make_job("linear", "moco_v3", changes, out="stopped")
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "requested", property(stop_at_eleven))
        with pytest.raises(Interrupted, match="state saved at step 11 of 24"):
            task.run("linear", stopped)
    assert task.run("linear", stopped) == rows
    heads = [(job.out / "head.safetensors").read_bytes() for job in (whole, stopped)]
    assert heads[0] == heads[1]


def test_the_state_of_another_run_is_refused(make_job, monkeypatch) -> None:
    changes: dict[str, object] = {"global_batch_size": 16, "epochs": 3}
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "requested", property(lambda self: setattr(self, "signum", 15) or True))
        with pytest.raises(Interrupted):
            task.run("linear", make_job("linear", "moco_v3", changes))
    with pytest.raises(InputError, match=r"state of another run \(its protocol differ\)"):
        task.run("linear", make_job("linear", "moco_v3", {**changes, "epochs": 4}))


def test_ranks_share_a_batch_without_loss() -> None:
    alone = rows_of_step(50, 16, 0, 1, 2, Ranks())
    shared = np.concatenate([rows_of_step(50, 16, 0, 1, 2, Ranks(rank, 4)) for rank in range(4)])
    np.testing.assert_array_equal(alone, shared)
    last = np.concatenate([rows_of_step(50, 16, 0, 1, 3, Ranks(rank, 4)) for rank in range(4)])
    assert len(last) == 4  # 2 images are left; filled up to a multiple of the ranks
    assert set(rows_of_step(50, 16, 0, 1, 3, Ranks())) <= set(last)


def test_a_batch_that_does_not_fit(make_job) -> None:
    with pytest.raises(InputError, match=r"global_batch_size is 4096, but there are only 120 training images"):
        task.run("linear", make_job("linear", "fast_moco"))


def test_a_trunk_that_moves_fails_the_run(mean_colour) -> None:
    with pytest.raises(RunFailedError, match="frozen backbone changed"), guards.frozen(mean_colour.module):
        mean_colour.module.bn.running_mean.add_(1e-6)


def test_weights_that_are_not_the_files_fail_the_run(make_job, mean_colour) -> None:
    mean_colour.module.bn.weight.mul_(1.01)
    with pytest.raises(RunFailedError, match="weights in memory"):
        task.run("knn", make_job("knn"))


def test_each_test_image_counts_once() -> None:
    once = guards.EachOnce(3)
    once.saw(np.array([0, 1, 1]))
    with pytest.raises(RunFailedError, match="2 of 3 test images were not counted exactly once"):
        once.check()


def test_simclr_lists_are_whole() -> None:
    one, ten = simclr_list(1), simclr_list(10)
    assert (len(one), len(ten)) == (12_811, 128_116)
    assert len({name.split("_")[0] for name in one}) == 1000
