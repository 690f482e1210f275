"""A run of a few iterations in a process of its own, to be killed or started on several ranks: OUT MAX_ITER."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import torch

from evaluate import task
from evaluate.checkpoints.load import load_backbone
from evaluate.task import Job
from pretrain.data.catalog import Catalog, ScenesEntry

CHANGES = {
    "global_batch_size": 2,
    "reference_batch_size": 2,
    "steps": [3],
    "warmup_iters": 2,
    "min_sizes_train": [64, 72],
    "min_size_test": 64,
    "rpn_topk_train": [50, 10],
    "rpn_topk_test": [50, 5],
    "roi_batch": 8,
    "roi_resolution": 4,
    "precise_bn_iters": 1,
}


def main(out: Path, max_iter: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    out.mkdir(exist_ok=True)
    job = Job(
        backbone=load_backbone("random:resnet18", seed=3),
        catalog=Catalog({"scenes": ScenesEntry(format="shapes-scenes", size=64, train=8, test=3, seed=1)}),
        data="scenes",
        protocol=task.resolve_protocol("detection", "smoke_r18_c4", {**CHANGES, "max_iter": max_iter}),
        seed=0,
        device=torch.device("cpu"),
        out=out,
        cache=out / "cache",
    )
    rows = {row.name: row.value for row in task.run("detection", job)}
    rank = os.environ.get("RANK", "0")
    (out / f"rows{'' if rank == '0' else rank}.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
