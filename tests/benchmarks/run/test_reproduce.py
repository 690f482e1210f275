"""The command in a campaign's `run.json` does that run again."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest

from benchmarks.campaign.plan import make_plan
from benchmarks.campaign.spec import load_spec
from benchmarks.cli import main
from benchmarks.run import execute
from benchmarks.run.provenance import describe_run
from benchmarks.run.reproduce import command
from benchmarks.run.request import Request
from pretrain.data.catalog import Catalog

SPEC = """\
name: small
pretrain:
  fast: {recipe: shapes_demo, data: tiny, seeds: [0, 1], set: {warmup_epochs: 0, views.blur_p: [0.5, 0.1]}}
checkpoints:
  random: {backbone: cifar_resnet20, init: random}
evaluate:
  - {task: knn, data: tiny, seeds: [0, 1], set: {also_k: [5], k: 5}}
  - {task: linear, data: tiny, protocol: simsiam}
"""


def test_the_command_makes_the_request_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "catalog.yaml").write_text("tiny: {format: shapes, size: 32, train: 64, test: 32, seed: 0}\n")
    (tmp_path / "spec.yaml").write_text(SPEC)
    plan = make_plan(load_spec(tmp_path / "spec.yaml"), Catalog.load(tmp_path / "catalog.yaml"))
    made: list[Request] = []
    monkeypatch.setattr(execute, "execute", lambda request, out, **_: made.append(request))
    monkeypatch.chdir(tmp_path)
    for run in plan.runs:
        weights = tmp_path / "runs" / run.run_id / "backbone.safetensors"
        weights.parent.mkdir(parents=True)
        weights.write_bytes(b"stands for the weights that this pretraining makes")
    assert len(plan.runs) == 2 + 2 * 3 + 3
    for run in plan.runs:
        words = command(run.request)
        assert words is not None
        assert words == describe_run(run.request).command
        monkeypatch.setattr(sys, "argv", words)
        with contextlib.suppress(SystemExit):
            main()
        again, wanted = made.pop(), run.request
        assert (again.settings, again.seed, again.data, again.data_identity, again.catalog) == (
            wanted.settings,
            wanted.seed,
            wanted.data,
            wanted.data_identity,
            wanted.catalog,
        )
        # Weights of a pretraining are known by that run in a campaign, and by their hash on their own.
        if wanted.checkpoint is None or wanted.checkpoint.from_run is None:
            assert again.short() == wanted.short()
    assert "fastmoco: " not in capsys.readouterr().err


def test_only_what_differs_from_the_preset_is_said(tmp_path: Path) -> None:
    request = Request(
        kind="evaluate", task="knn", settings_name="dino", settings={}, data="shapes", data_identity="x", seed=3
    )  # fmt: skip
    from benchmarks.run.request import CheckpointRef
    from evaluate.task import resolve_protocol

    settings = resolve_protocol("knn", "dino", {"k": 5, "also_k": [5, 10]}).model_dump(mode="json")
    weights = CheckpointRef(label="mine", ref="/data/x.pth", select="module.encoder_q")
    request = request.model_copy(update={"settings": settings, "checkpoint": weights, "run_id": "knn-1"})
    assert command(request) == [
        *("fastmoco", "evaluate", "knn", "--checkpoint", "/data/x.pth", "--label", "mine", "--protocol", "dino"),
        *("--select", "module.encoder_q", "--data", "shapes", "--set", "k=5", "--set", "also_k=[5, 10]"),
        *("--seed", "3", "--out", "again/knn-1"),
    ]


@pytest.mark.parametrize("change", [{"settings_name": "from_a_file"}, {"settings": {"k": 5}}])
def test_no_command_is_better_than_a_wrong_one(change: dict[str, object]) -> None:
    from benchmarks.run.request import CheckpointRef

    weights = CheckpointRef(label="random", ref="random:resnet18", init_seed=0)
    request = Request(
        kind="evaluate", task="knn", settings_name="dino", settings={}, data="shapes", data_identity="x", seed=0,
        checkpoint=weights,
    )  # fmt: skip
    assert command(request.model_copy(update=change)) is None
