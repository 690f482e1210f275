"""Where a file's input normalisation comes from, and that what the user says reaches the measured row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.campaign.plan import make_plan
from benchmarks.campaign.spec import load_spec
from evaluate.checkpoints.export import convert
from evaluate.checkpoints.inspect import inspect_file
from evaluate.checkpoints.load import load_backbone
from evaluate.checkpoints.normalizations import KNOWN_FILES, PRESETS, preset
from pretrain.backbones import registry
from pretrain.backbones.handover import Normalization
from pretrain.data.catalog import Catalog
from pretrain.runtime.errors import InputError

OWN = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "channels": "BGR"}


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """A file whose names cannot tell."""
    torch.manual_seed(0)
    path = tmp_path / "flat.pth"
    torch.save(registry.build("cifar_resnet20").state_dict(), path)
    return path


def test_a_known_release_is_told_by_its_sha(monkeypatch: pytest.MonkeyPatch, flat: Path) -> None:
    sha256 = inspect_file(flat).sha256
    monkeypatch.setitem(KNOWN_FILES, sha256[:8], ("swav", "SwAV's release"))
    seen = inspect_file(flat).input
    assert (seen.name, seen.certainty, seen.why) == ("swav", "known", "the file is SwAV's release")


def test_what_is_assumed_is_said_and_what_is_given_wins(flat: Path) -> None:
    assumed = inspect_file(flat)
    assert (assumed.input.name, assumed.input.certainty) == ("imagenet", "assumed")
    assert assumed.warnings[-1].endswith("say it with --normalization")
    given = inspect_file(flat, normalization="none")
    assert (given.input.name, given.input.certainty) == ("none", "given")
    assert not any("assumed" in said for said in given.warnings)
    assert load_backbone(flat, normalization="none").metadata.normalization == PRESETS["none"]
    own = load_backbone(flat, normalization=OWN).metadata.normalization
    assert own == Normalization(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), channels="BGR")
    assert inspect_file(flat, normalization=OWN).input.name is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"mean": [0, 0, 0], "std": [1, 0, 1]},
        {"mean": [0, 0], "std": [1, 1, 1]},
        {"mean": [0, 0, 0], "std": [1, 1, 1], "channels": "HSV"},
        {"means": [0, 0, 0]},
    ],
)
def test_what_is_no_normalisation_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="expected a name .imagenet, swav, none"):
        preset(wrong)
    with pytest.raises(InputError, match="unknown normalization 'imagnet'.*imagenet"):
        preset("imagnet")


def test_a_conversion_keeps_what_it_knows(tmp_path: Path, peers: Any) -> None:
    path = tmp_path / "r18.pth"
    torch.save(peers.resnet(0).state_dict(), path)
    for target in ("timm", "detectron2", "mmseg", "huggingface"):
        out = tmp_path / f"{target}.{'safetensors' if target in ('timm', 'huggingface') else 'bin'}"
        convert(path, target, out, normalization=OWN)
        seen = inspect_file(out)
        assert (seen.input.certainty, seen.input.normalization.channels) == ("stated", "BGR"), target
        metadata = load_backbone(out).metadata
        assert (metadata.method, metadata.parent_sha256) == ("backbone_only", seen.sha256)


def test_the_commands_row_carries_it(tmp_path: Path, flat: Path) -> None:
    (tmp_path / "catalog.yaml").write_text("tiny: {format: shapes, size: 32, train: 64, test: 32, seed: 0}\n")
    out = tmp_path / "run"
    command = [sys.executable, "-m", "benchmarks.cli", "--catalog", str(tmp_path / "catalog.yaml"), "evaluate", "knn"]
    command += ["--checkpoint", str(flat), "--data", "tiny", "--set", "k=5", "--set", "also_k=[]", "--out", str(out)]
    subprocess.run([*command, "--normalization", "cifar"], check=True, capture_output=True)
    checkpoint = json.loads((out / "result.json").read_text())["run"]["checkpoint"]
    assert checkpoint["normalization"] == PRESETS["cifar"].model_dump(mode="json")
    assert checkpoint["sha256"] == inspect_file(flat).sha256
    assert (checkpoint["format"], checkpoint["prefix"]) == ("backbone_only", "")


def test_a_campaigns_entry_carries_it(tmp_path: Path, flat: Path) -> None:
    text = """\
name: theirs
checkpoints:
  as_told: {file: flat.pth, normalization: cifar}
  as_said: {file: flat.pth, normalization: {mean: [0.1, 0.2, 0.3], std: [0.4, 0.5, 0.6], channels: BGR}}
  as_is:   {file: flat.pth}
evaluate: [{task: knn, data: shapes}]
"""
    spec = tmp_path / "spec.yaml"
    spec.write_text(text)
    plan = make_plan(load_spec(spec), Catalog.load(None))
    refs = {run.label: run.request.checkpoint for run in plan.runs}
    assert [refs[label].normalization for label in ("as_told", "as_said", "as_is")] == ["cifar", OWN, None]
    assert len({run.run_id for run in plan.runs}) == 3
    spec.write_text(text.replace("normalization: cifar", "normalization: cifra"))
    with pytest.raises(InputError, match=r"spec\.yaml:3: unknown normalization 'cifra'"):
        make_plan(load_spec(spec), Catalog.load(None))
