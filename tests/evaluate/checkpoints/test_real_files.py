"""A file that somebody else trained: akamaster's ResNet-20, whose own classifier is known to reach 81.03 %."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.campaign.plan import make_plan
from benchmarks.campaign.spec import load_spec
from evaluate.checkpoints.export import convert
from evaluate.checkpoints.inspect import inspect_file
from evaluate.checkpoints.load import load_backbone
from pretrain.data.catalog import Catalog
from pretrain.runtime.errors import InputError
from pretrain.transforms import normalize

pytestmark = pytest.mark.real_data
SHA256 = "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8"


@pytest.fixture
def file(real_data: Path) -> Path:
    return real_data / "checkpoints-cifar-resnet" / "resnet20-12fca82f.th"


def test_it_is_explained(file: Path) -> None:
    seen = inspect_file(file)
    assert seen.sha256 == SHA256
    assert (seen.container, seen.formats, seen.backbone) == ("torch legacy", ("plain",), "cifar_resnet20")
    assert seen.chosen == "state_dict/module."
    (only,) = seen.candidates
    assert (only.tensors, only.counters) == (95, 0)
    assert [(each.names, each.tensors) for each in seen.dropped] == [("state_dict/linear.*", 2)]
    assert (seen.input.name, seen.input.certainty) == ("imagenet", "known")
    assert (seen.missing, seen.objections, seen.not_run) == ((), (), ())


def test_it_is_never_taken_for_another_backbone(file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cifar_resnet20 cannot become a timm file: its stem is 3x3"):
        convert(file, "timm", tmp_path / "out.safetensors")
    convert(file, "fastmoco", tmp_path / "backbone.safetensors")
    ours, theirs = (load_backbone(path).module.state_dict() for path in (tmp_path / "backbone.safetensors", file))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_the_campaign_of_third_party_files_plans(
    file: Path, real_data: Path, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    augnet = tmp_path / "checkpoints" / "imgsim" / "model.pth"
    augnet.parent.mkdir(parents=True)
    augnet.write_bytes(b"the wheel's file; planning reads its sha256 alone")
    shutil.copy(file, tmp_path / "checkpoints")
    spec = load_spec(repository / "benchmarks" / "campaigns" / "third_party.yaml")
    plan = make_plan(spec, Catalog.load(real_data / "catalog.yaml"))
    tasks = Counter((run.label, run.request.data) for run in plan.runs)
    assert tasks["augnet", "vegetables"] == tasks["random_resnet50", "vegetables"] == 2
    assert tasks["augnet", "cifar10"] == tasks["random_resnet50", "cifar10"] == 2
    assert tasks["resnet20", "cifar10"] == 3
    measured = {run.request.checkpoint.sha256 for run in plan.runs if run.label == "resnet20"}
    assert measured == {SHA256}


@pytest.mark.long
def test_its_own_classifier_reaches_what_is_known(file: Path, real_data: Path) -> None:
    loaded = load_backbone(file)
    linear = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
    weight, bias = linear["module.linear.weight"], linear["module.linear.bias"]
    test = Catalog.load(real_data / "catalog.yaml").images("cifar10", "test")
    rows = np.arange(0, len(test), 4)  # every fourth image; all 10,000 give 81.03 %
    correct = 0
    with torch.no_grad():
        for part in np.array_split(rows, 10):
            pixels = torch.from_numpy(np.stack([test.decode(int(row)) for row in part])).permute(0, 3, 1, 2)
            logits = loaded.module(normalize(pixels, loaded.metadata.normalization)) @ weight.T + bias
            correct += int((logits.argmax(1).numpy() == test.labels[part]).sum())
    assert 100 * correct / len(rows) == pytest.approx(81.03, abs=1.5)
