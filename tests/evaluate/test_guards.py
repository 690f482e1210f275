"""Guards are worth something when they can fail: each is made to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluate import guards, task
from evaluate.checkpoints.load import LoadedBackbone, load_backbone
from evaluate.frozen import features
from evaluate.frozen.features import Features
from evaluate.trained import tuning
from evaluate.trained.probe import Probe
from pretrain.backbones import registry
from pretrain.backbones.handover import BackboneMetadata, write_backbone
from pretrain.runtime.errors import InputError, Interrupted, RunFailedError
from pretrain.runtime.interrupt import StopRequest


class MovingStatistics(nn.BatchNorm2d):
    """A batch norm that cannot be put into eval mode: its statistics follow whatever it sees."""

    def train(self, mode: bool = True) -> MovingStatistics:
        return super().train(True)


def thawed(backbone: LoadedBackbone) -> LoadedBackbone:
    backbone.module.bn = MovingStatistics(3).requires_grad_(False)
    fingerprint = registry.fingerprint(backbone.module)
    return LoadedBackbone(backbone.module, backbone.metadata, backbone.ref, fingerprint, "random")


@pytest.mark.parametrize(
    ("name", "protocol", "changes"),
    [
        ("linear", "moco_v3", {"global_batch_size": 40, "epochs": 1}),
        ("linear", "sweep", {"min_steps": 2}),
        ("knn", "dino", {}),
        ("logreg", "dinov2", {"grid_size": 1}),
    ],
)
def test_batch_norm_that_follows_the_data_fails_a_frozen_run(
    make_job, mean_colour: LoadedBackbone, name: str, protocol: str, changes: dict[str, object]
) -> None:
    with pytest.raises(RunFailedError, match=r"the frozen backbone changed during the run: .*weights and BN buffers"):
        task.run(name, make_job(name, protocol, changes, backbone=thawed(mean_colour)))


def test_a_trunk_whose_weights_move_fails_a_frozen_run(
    make_job, mean_colour: LoadedBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs_of = Probe.inputs_of

    def leaking(self: Probe, images: Tensor) -> dict[tuple[int, bool], Tensor]:
        with torch.no_grad():
            self.trunk.get_submodule("bn").weight.mul_(1.001)
        return inputs_of(self, images)

    monkeypatch.setattr(Probe, "inputs_of", leaking)
    with pytest.raises(RunFailedError, match="the frozen backbone changed"):
        task.run("linear", make_job("linear", "moco_v3", {"global_batch_size": 40, "epochs": 1}))


@pytest.mark.parametrize("what", ["a weight", "a statistic"])
def test_a_tensor_that_did_not_come_from_the_file_fails_the_run(
    make_job, tmp_path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    caplog.set_level("INFO", logger="fastmoco")
    path = tmp_path / "backbone.safetensors"
    tensors = registry.build("cifar_resnet20").state_dict()
    write_backbone(path, tensors, BackboneMetadata(backbone="cifar_resnet20", method="test"))
    whole = load_backbone(path)
    assert "cifar_resnet20" in caplog.text
    caplog.clear()
    guards.check_weights_are_the_files(whole)
    assert not caplog.records  # what the file is was said when it was loaded

    def forgetful(ref, *, select=None, seed=0, tell=True, arch=None) -> LoadedBackbone:
        """As a loader with `strict=False` would: one tensor keeps what it was drawn with."""
        found = load_backbone(ref, select=select, seed=seed, tell=tell, arch=arch)
        generator = torch.Generator().manual_seed(seed)
        state = found.module.state_dict()
        name = next(key for key in state if key.endswith("running_mean" if what == "a statistic" else "weight"))
        state[name].copy_(torch.randn(state[name].shape, generator=generator))
        return found

    monkeypatch.setattr(guards, "load_backbone", forgetful)
    with pytest.raises(RunFailedError, match=r"the weights in memory .* are not those of .*backbone.safetensors"):
        task.run("knn", make_job("knn", backbone=forgetful(path)))


def test_an_image_that_is_left_out_or_counted_twice_fails_the_run(make_job, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job("finetune", "barlow_twins", {"global_batch_size": 40, "epochs": 1})
    for wrong in (lambda gathered: gathered[:-1], lambda gathered: torch.cat([gathered, gathered[:1]])):
        with monkeypatch.context() as patch:
            patch.setattr(tuning, "gather", wrong)
            with pytest.raises(RunFailedError, match=r"1 of 60 test images were not counted exactly once"):
                task.run("finetune", job)


def test_an_image_that_the_loader_leaves_out_fails_the_extraction(make_job, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = features.batches

    def forgetful(*arguments, **options):
        for inputs, indices in batches(*arguments, **options):
            yield inputs[:-1], indices[:-1]

    monkeypatch.setattr(features, "batches", forgetful)
    job = make_job("knn")
    with pytest.raises(RunFailedError, match="1 of 120 test images were not counted exactly once"):
        task.run("knn", job)
    assert not list(job.cache.rglob("*.npy"))


def test_a_class_list_that_differs_between_splits_is_refused(make_job) -> None:
    job = make_job("linear", "moco_v3", {"global_batch_size": 40})
    train = job.catalog.splits["train"]
    train.classes = (*train.classes, "one more")
    with pytest.raises(InputError, match=r"split test has 3 classes, split train has 4, expected the same list"):
        task.run("linear", job)


def test_stacked_features_read_as_one() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(n, 4)).astype(np.float32) for n in (5, 3)]
    first = Features(parts[0], np.array([4, 0, 2]), np.array([0, 1, 2]))
    second = Features(parts[1], np.array([1, 2]), np.array([2, 0]))
    both = first.joined(second)
    expected = np.concatenate([parts[0][[4, 0, 2]], parts[1][[1, 2]]])
    np.testing.assert_array_equal(both.take(np.arange(5)), expected)
    np.testing.assert_array_equal(np.concatenate([block for _start, block in both.views(2)]), expected)
    np.testing.assert_array_equal(both.subset(np.array([4, 1])).take(np.array([0, 1])), expected[[4, 1]])
    assert (len(both), both.width, both.labels.tolist()) == (5, 4, [0, 1, 2, 2, 0])


@pytest.mark.parametrize("at", [5, 17])  # of 6 steps of the five lrs together and 15 of the chosen one alone
def test_a_run_stopped_in_either_stage_goes_on_to_the_same_bits(
    make_job, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    changes: dict[str, object] = {"global_batch_size": 24, "epochs": 3, "held_out": 0.6}
    whole = make_job("linear", "byol", changes, out="whole")
    rows = task.run("linear", whole)
    looks = 0

    def stop_there(self: StopRequest) -> bool:
        nonlocal looks
        looks += 1
        if looks == at:
            self.signum = 15
        return self.signum is not None

    stopped = make_job("linear", "byol", changes, out="stopped")
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "requested", property(stop_there))
        with pytest.raises(Interrupted, match="state saved at step"):
            task.run("linear", stopped)
    assert bool(list((stopped.out / "refit").rglob("step_*.pt"))) == (at == 17)
    assert task.run("linear", stopped) == rows
    assert len({(job.out / "head.safetensors").read_bytes() for job in (whole, stopped)}) == 1
    assert not list(stopped.out.rglob("step_*.pt"))
