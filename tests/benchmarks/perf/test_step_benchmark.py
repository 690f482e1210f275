"""The benchmark of steps compares equal work, and counts bytes that are there."""

from __future__ import annotations

import pytest
import torch

from benchmarks.perf.measures.memory import peak_of_tensors
from benchmarks.perf.measures.tensor_bytes import TensorBytes
from benchmarks.perf.peers.contestants import NAMES, Setting, make
from benchmarks.perf.step import differences

SMALL = Setting("cifar_resnet20", 32, 8)
CPU = torch.device("cpu")


@pytest.mark.long
def test_ours_and_the_public_codes_step_are_the_same_work():
    found = differences(Setting("resnet18", 64, 8), batch=2)
    assert found.keys() == {"loss", "gradients", "buffers and momentum encoder"}
    assert max(found.values()) < 1e-8


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_every_contestant_takes_steps(name):
    step = make(name, Setting("resnet18", 64, 8), 4, CPU)
    losses = [step().item() for _ in range(2)]
    assert losses[0] != losses[1]
    assert all(0 < loss < 20 for loss in losses)


def test_bytes_alive_are_counted_once_and_until_they_are_freed():
    kept = torch.zeros(1000)
    with TensorBytes([kept, kept[:10]]) as followed:
        assert followed.now == 4000
        other = kept + 1
        view = other[5:]
        assert followed.now == 8000
        del other
        assert followed.now == 8000
        del view
        assert followed.now == 4000
        kept.add_(1)
    assert (followed.now, followed.peak) == (4000, 8000)


@pytest.mark.long
@pytest.mark.parametrize(
    ("precision", "micro", "within"), [("float32", None, 0), ("bf16", None, 1e-3), ("bf16", 16, 1e-3)]
)
def test_fake_tensors_need_what_real_ones_do(precision, micro, within):
    real, fake = (peak_of_tensors(SMALL, 64, precision, micro, fake=fake) for fake in (False, True))
    assert fake == pytest.approx(real, rel=within)
    between, peak = real
    assert peak > 1.2 * between  # activations are part of it


@pytest.mark.long
def test_micro_batches_need_less():
    whole, parts = (peak_of_tensors(SMALL, 128, "bf16", micro, fake=True)[1] for micro in (None, 32))
    assert parts < 0.8 * whole
