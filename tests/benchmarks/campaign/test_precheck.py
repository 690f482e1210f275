"""What is wrong with a campaign's checkpoint files is told by `plan` and `run`, before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.campaign.opened import Campaign, open_campaign
from benchmarks.campaign.precheck import check_weights
from benchmarks.launch.session import run_campaign
from benchmarks.launch.show import print_plan
from pretrain.backbones import registry
from pretrain.data.catalog import Catalog, ShapesEntry
from pretrain.runtime.errors import InputError

CATALOG = Catalog({"tiny": ShapesEntry(format="shapes", size=32, train=64, test=32)})
SPEC = """\
name: files
checkpoints:
  random: {backbone: cifar_resnet20, init: random}
  theirs: {file: '*.safetensors'}
evaluate: [{task: knn, data: tiny}]
"""


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return registry.build("cifar_resnet20").state_dict()


def campaign(folder: Path, text: str = SPEC) -> Campaign:
    (folder / "spec.yaml").write_text(text)
    return open_campaign(folder / "spec.yaml", folder / "root", CATALOG, cluster="debug", site=None)


def test_whole_files_pass(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file(weights, tmp_path / "a.safetensors")
    opened = campaign(tmp_path)
    check_weights(opened.file, opened.plan.runs)


def test_files_that_do_not_load_are_told_together_before_anything_runs(
    tmp_path: Path, weights: dict[str, torch.Tensor]
) -> None:
    save_file(weights, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"torn")
    save_file({k: v for k, v in weights.items() if k != "layer2.1.conv2.weight"}, tmp_path / "c.safetensors")
    opened = campaign(tmp_path)
    for command in (lambda: print_plan(opened), lambda: run_campaign(opened, workers=1, watch=False)):
        with pytest.raises(InputError) as raised:
            command()
        told = str(raised.value)
        assert told.startswith(f"{tmp_path}/spec.yaml:4: checkpoint 'theirs/b' does not load: {tmp_path}/b.safetensors")
        assert told.endswith("; nor do 1 more: theirs/c")
    assert not (tmp_path / "root").exists()


def test_a_missing_tensor_and_a_wrong_selection_are_named(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    save_file({k: v for k, v in weights.items() if k != "layer2.1.conv2.weight"}, tmp_path / "c.safetensors")
    opened = campaign(tmp_path)
    with pytest.raises(InputError, match=r"checkpoint 'theirs' does not load: .*layer2\.1\.conv2\.weight$"):
        check_weights(opened.file, opened.plan.runs)
    opened = campaign(tmp_path, SPEC.replace("'*.safetensors'", "c.safetensors, select: encoder_q"))
    with pytest.raises(InputError, match=r"spec.yaml:4: .*--select 'encoder_q' names no encoder"):
        check_weights(opened.file, opened.plan.runs)


def test_a_backbone_that_does_not_exist(tmp_path: Path) -> None:
    opened = campaign(tmp_path, SPEC.replace("cifar_resnet20", "cifar_resnet2").replace("  theirs", "  # theirs"))
    with pytest.raises(InputError, match=r"random: unknown backbone 'cifar_resnet2'"):
        check_weights(opened.file, opened.plan.runs)
