"""A detector that a processor trains in a minute or two learns to find shapes, from a Fast-MoCo checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evaluate import task
from evaluate.checkpoints.load import load_backbone
from evaluate.protocols.detection import PROTOCOLS
from evaluate.task import Job
from pretrain.data.catalog import Catalog

# What `fastmoco pretrain --recipe shapes_demo --data shapes` left, stored in half precision.
FAST_MOCO = Path(__file__).parents[1] / "segmentation" / "fast_moco_shapes_demo.safetensors"


@pytest.mark.long
def test_smoke_from_a_fast_moco_checkpoint_finds_shapes(tmp_path: Path) -> None:
    backbone = load_backbone(FAST_MOCO)
    assert (backbone.metadata.method, backbone.metadata.recipe) == ("fast_moco", "shapes_demo")
    protocol, device = PROTOCOLS["smoke_scenes"], torch.device("cpu")
    job = Job(backbone, Catalog(), "scenes", protocol, 0, device, tmp_path / "run", tmp_path / "cache")
    rows = {row.name: row.value for row in task.run("detection", job)}
    assert rows["AP50"] > 20
    assert sum(name.startswith("AP/") for name in rows) == 10
    written = torch.load(job.out / "detector.pth", weights_only=True)["model"]
    before = backbone.module.state_dict()["conv1.weight"]
    assert not torch.equal(written["backbone.trunk.conv1.weight"], before)  # the trunk learns too
