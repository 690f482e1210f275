"""Files of SwAV, DINO, Barlow Twins, VICReg and their like: built and saved as their own repositories do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

PROJECTION = "projection head"


def swav(p: Any) -> Any:
    resnet = p.resnet(0)
    resnet.projection_head, resnet.prototypes = p.mlp(512, 64, 16), nn.Linear(16, 30, bias=False)
    return p.parallel(resnet).state_dict()


def swav_training(p: Any) -> Any:
    return {"epoch": 100, "state_dict": swav(p), "optimizer": {"state": {}}, "amp": {"loss_scaler0": {}}}


def deepcluster_v2(p: Any) -> Any:
    resnet = p.resnet(0)
    resnet.projection_head = p.mlp(512, 64, 16)
    resnet.prototypes = p.parts({f"prototypes{i}": nn.Linear(16, 30, bias=False) for i in range(3)})
    return {"epoch": 100, "state_dict": p.parallel(resnet).state_dict(), "optimizer": {"state": {}}}


def dino(p: Any) -> Any:
    student = p.parallel(p.parts({"backbone": p.resnet(1), "head": p.mlp(512, 64, 16)}))
    teacher = p.parts({"backbone": p.resnet(0), "head": p.mlp(512, 64, 16)})
    return {
        "student": student.state_dict(),
        "teacher": teacher.state_dict(),
        "optimizer": p.optimizer(student),
        "epoch": 100,
        "args": p.arguments(),
        "dino_loss": {"center": torch.zeros(1, 16)},
        "fp16_scaler": {"scale": 2.0},
    }


def flat(p: Any) -> Any:
    return p.resnet(0).state_dict()


def barlow_twins(p: Any) -> Any:
    model = p.parallel(
        p.parts(
            {"backbone": p.resnet(0), "projector": p.mlp(512, 64, 64), "bn": nn.BatchNorm1d(64, affine=False)},
        )
    )
    return {"epoch": 1000, "model": model.state_dict(), "optimizer": p.optimizer(model)}


def vicreg(p: Any) -> Any:
    model = p.parallel(p.parts({"backbone": p.resnet(0), "projector": p.mlp(512, 64, 64)}))
    return {"epoch": 1000, "model": model.state_dict(), "optimizer": p.optimizer(model)}


def vicregl(p: Any) -> Any:
    model = p.parallel(
        p.parts({"backbone": p.resnet(0), "maps_projector": p.mlp(512, 16), "projector": p.mlp(512, 64, 64)})
    )
    return {"epoch": 300, "model": model.state_dict(), "optimizer": p.optimizer(model)}


# format, file, prefix taken, names dropped -> why
CASES: list[tuple[str, Callable[[Any], Any], str, dict[str, str]]] = [
    ("swav", swav, "module.", {"projection_head": PROJECTION, "prototypes": "prototypes"}),
    (
        "swav",
        swav_training,
        "state_dict/module.",
        {"state_dict/projection_head": PROJECTION, "state_dict/prototypes": "prototypes"},
    ),
    (
        "swav",
        deepcluster_v2,
        "state_dict/module.",
        {"state_dict/projection_head": PROJECTION, "state_dict/prototypes": "prototypes"},
    ),
    (
        "dino",
        dino,
        "teacher/backbone.",
        {
            "teacher/head": PROJECTION,
            "student/backbone": "the student",
            "student/head": PROJECTION,
        },
    ),
    ("backbone_only", flat, "", {}),
    (
        "barlow_twins",
        barlow_twins,
        "model/module.backbone.",
        {"model/projector": PROJECTION, "model/bn": "BN over the embeddings"},
    ),
    ("vicreg", vicreg, "model/module.backbone.", {"model/projector": PROJECTION}),
    (
        "vicreg",
        vicregl,
        "model/module.backbone.",
        {"model/maps_projector": PROJECTION, "model/projector": PROJECTION},
    ),
]


@pytest.mark.parametrize(("form", "content", "chosen", "dropped"), CASES, ids=[case[1].__name__ for case in CASES])
def test_is_what_it_is(
    tmp_path: Path,
    peers: Any,
    prove: Any,
    form: str,
    content: Callable[[Any], Any],
    chosen: str,
    dropped: dict[str, str],
) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(content(peers), path)
    prove(
        path,
        peers.resnet(0),
        form=form,
        chosen=chosen,
        dropped=dropped,
        normalization="swav" if form == "swav" else "imagenet",
        warned=("assumed to be ImageNet's",) if form == "backbone_only" else (),
    )
