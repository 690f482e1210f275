"""Two ranks with B images each give what one rank with 2B gives: real processes, gloo, float64."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pretrain.runtime.distributed import Ranks, ranks_from_environment
from pretrain.runtime.errors import InputError

SCRIPT = """
import sys
from pathlib import Path
import torch
from pretrain.runtime.distributed import process_group
from pretrain.recipe import Recipe
from pretrain.step import accumulate_gradients
from pretrain.model import build_model
from pretrain.optim import build_optimizer
from torch.nn.parallel import DistributedDataParallel

out = Path(sys.argv[1])
recipe = Recipe.model_validate_json((out / "recipe.json").read_text())
torch.set_num_threads(1)
with process_group(torch.device("cpu"), out) as ranks:
    model = build_model(recipe, 0, torch.device("cpu"), ranks).double()
    optimizer = build_optimizer(recipe, model)
    wrapped = DistributedDataParallel(model, broadcast_buffers=False) if ranks.world_size > 1 else model
    B = 4 // ranks.world_size
    losses = []
    for step in range(3):
        generator = torch.Generator().manual_seed(step)
        views = [torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=generator) for _ in range(2)]
        mine = [view[ranks.rank * B : (ranks.rank + 1) * B] for view in views]
        optimizer.zero_grad()
        figures = accumulate_gradients(
            wrapped, mine, momentum=0.9, micro_batch_size=recipe.micro_batch_size, ranks=ranks
        )
        losses.append(figures.loss)
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
    content = {"loss": torch.stack(losses), "gradients": gradients, "state": model.state_dict()}
    torch.save(content, out / f"{ranks.world_size}-{ranks.rank}.pt")
"""


def run_ranks(folder: Path, world_size: int) -> list[dict]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "MASTER_"))}
    clean |= {"WORLD_SIZE": str(world_size), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(folder)],
            env=clean | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world_size)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"{world_size}-{rank}.pt") for rank in range(world_size)]


def close(name: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10, msg=lambda text: f"{name}: {text}")


@pytest.mark.long
@pytest.mark.parametrize("variant", [{}, {"optimizer": "lars", "decay_1d": False, "combine_at": "projector"}])
def test_two_ranks_equal_one(small_recipe, tmp_path, variant):
    (tmp_path / "recipe.json").write_text(small_recipe(**variant).model_dump_json())
    one = run_ranks(tmp_path, 1)[0]
    two = run_ranks(tmp_path, 2)
    torch.testing.assert_close(sum(rank["loss"] for rank in two) / 2, one["loss"], rtol=1e-10, atol=1e-10)
    for rank in two:
        for name, gradient in one["gradients"].items():
            close(name, rank["gradients"][name], gradient)
        assert rank["state"].keys() == one["state"].keys()
        for name, value in one["state"].items():
            close(name, rank["state"][name], value)
    moved = (one["state"]["backbone.conv1.weight"] - two[0]["state"]["momentum_backbone.conv1.weight"]).abs().max()
    assert moved > 1e-6  # three updates happened


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Ranks()),
        ({"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Ranks(3, 8, 1)),
        ({"SLURM_PROCID": "2", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "0"}, Ranks(2, 4, 0)),
        ({"SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_STEP_ID": "0"}, Ranks()),
        # A batch script, outside of any step, is one process whatever its job has asked for.
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, Ranks()),
    ],
)
def test_ranks_from_the_launchers_variables(monkeypatch, variables, expected):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert ranks_from_environment() == expected


def test_variables_that_are_no_numbers(monkeypatch):
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(InputError, match="RANK, WORLD_SIZE, LOCAL_RANK must be numbers"):
        ranks_from_environment()
