"""Small scenes, small protocols and jobs for the tests of detection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from evaluate.checkpoints.load import LoadedBackbone, load_backbone
from evaluate.detection import library
from evaluate.task import Job, resolve_protocol
from pretrain.data.catalog import Catalog, ScenesEntry

# A few iterations that run through everything and learn nothing.
TINY = {
    "global_batch_size": 2,
    "reference_batch_size": 2,
    "max_iter": 6,
    "steps": [4],
    "warmup_iters": 2,
    "min_sizes_train": [64, 72],
    "min_size_test": 64,
    "rpn_topk_train": [50, 10],
    "rpn_topk_test": [50, 5],
    "roi_batch": 8,
    "roi_resolution": 4,
    "precise_bn_iters": 1,
}


@pytest.fixture(autouse=True)
def _detectron2() -> Iterator[None]:
    library.load()
    with library.quiet():
        yield


@pytest.fixture(scope="session")
def resnet18() -> LoadedBackbone:
    return load_backbone("random:resnet18", seed=3)


@pytest.fixture
def scenes() -> Catalog:
    return Catalog({"scenes": ScenesEntry(format="shapes-scenes", size=64, train=8, test=3, seed=1)})


@pytest.fixture
def detection_job(tmp_path: Path, scenes: Catalog, resnet18: LoadedBackbone) -> Callable[..., Job]:
    def make(
        protocol: str = "smoke_r18_c4",
        changes: dict[str, object] | None = None,
        *,
        backbone: LoadedBackbone | None = None,
        catalog: Catalog | None = None,
        data: str = "scenes",
        out: str = "out",
    ) -> Job:
        directory = tmp_path / out
        directory.mkdir(exist_ok=True)
        return Job(
            backbone=backbone or resnet18,
            catalog=catalog or scenes,
            data=data,
            protocol=resolve_protocol("detection", protocol, {**TINY, **(changes or {})}),
            seed=0,
            device=torch.device("cpu"),
            out=directory,
            cache=tmp_path / "cache",
        )

    return make
