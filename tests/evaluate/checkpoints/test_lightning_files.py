"""Files that PyTorch Lightning saves: solo-learn's, lightly's, stable-pretraining's and any other's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evaluate.checkpoints.inspect import inspect_file
from evaluate.checkpoints.load import load_backbone
from pretrain.runtime.errors import InputError

HEAD, NECK = "classifier or projection on top of the trunk", "projection head"
RUNNING = "its running average"


def solo_learn(p: Any) -> Any:
    model = p.parts(
        {
            "backbone": p.resnet(0),
            "classifier": nn.Linear(512, 10),
            "projector": p.mlp(512, 64, 16),
            "predictor": p.mlp(16, 16),
            "momentum_backbone": p.resnet(1),
            "momentum_projector": p.mlp(512, 64, 16),
            "momentum_classifier": nn.Linear(512, 10),
        },
        queue=torch.randn(2, 16, 32),
        queue_ptr=torch.zeros(1, dtype=torch.long),
    )
    return p.lightning(model, hyper_parameters={"cfg": {"method": "mocov2plus", "args": p.arguments()}})


def solo_learn_old(p: Any) -> Any:
    model = p.parts({"encoder": p.resnet(0), "classifier": nn.Linear(512, 10), "projector": p.mlp(512, 64, 16)})
    return p.lightning(model, hyper_parameters=p.arguments())


def lightly_moco(p: Any) -> Any:
    model = p.parts(
        {
            "backbone": p.resnet(0),
            "projection_head": p.parts({"layers": p.mlp(512, 64, 16)}),
            "key_backbone": p.resnet(1),
            "key_projection_head": p.parts({"layers": p.mlp(512, 64, 16)}),
            "criterion": p.parts({"memory_bank": p.parts({}, bank=torch.randn(16, 32))}),
            "online_classifier": p.parts({"classification_head": nn.Linear(512, 10)}),
        }
    )
    return p.lightning(model)


def lightly_byol(p: Any) -> Any:
    model = p.parts(
        {
            "backbone": p.resnet(0),
            "projection_head": p.parts({"layers": p.mlp(512, 64, 16)}),
            "student_projection_head": p.parts({"layers": p.mlp(512, 64, 16)}),
            "student_prediction_head": p.parts({"layers": p.mlp(16, 16)}),
            "teacher_backbone": p.resnet(1),
            "teacher_projection_head": p.parts({"layers": p.mlp(512, 64, 16)}),
            "online_classifier": p.parts({"classification_head": nn.Linear(512, 10)}),
        }
    )
    return p.lightning(model)


def lightly_dino(p: Any) -> Any:
    # Here `backbone` is the teacher.
    model = p.parts(
        {
            "backbone": p.resnet(0),
            "projection_head": p.parts({"layers": p.mlp(512, 16)}),
            "student_backbone": p.resnet(1),
            "student_projection_head": p.parts({"layers": p.mlp(512, 16)}),
            "criterion": p.parts({"center": p.parts({}, value=torch.zeros(1, 16))}),
            "online_classifier": p.parts({"classification_head": nn.Linear(512, 10)}),
        }
    )
    return p.lightning(model)


def lightly_compiled(p: Any) -> Any:
    model = p.parts(
        {
            "backbone": p.parts({"_orig_mod": p.resnet(0)}),
            "projection_head": p.parts({"layers": p.mlp(512, 16)}),
            "online_classifier": p.parts({"classification_head": nn.Linear(512, 10)}),
        }
    )
    return p.lightning(model)


def stable_pretraining(p: Any) -> Any:
    model = p.parts(
        {
            "backbone": p.resnet(0),
            "projector": p.mlp(512, 16),
            "callbacks_modules": p.parts({"linear_probe": nn.Linear(512, 10)}),
        }
    )
    return p.lightning(p.parts({"_orig_mod": model}))


def stable_pretraining_teacher(p: Any) -> Any:
    model = p.parts(
        {
            "backbone": p.parts({"teacher": p.resnet(0), "student": p.resnet(1)}),
            "projector": p.parts({"teacher": p.mlp(512, 16), "student": p.mlp(512, 16)}),
            "predictor": p.mlp(16, 16),
            "callbacks_modules": p.parts({"knn_probe": nn.Linear(512, 10)}),
        }
    )
    return p.lightning(model)


def lightning(p: Any) -> Any:
    model = p.parts({"net": p.parts({"features": p.resnet(0)}), "projector": p.mlp(512, 16)})
    return p.lightning(model)


TWICE = "the backbone under its second name"
PROBE = "probe trained beside the encoder"
QUEUE = "queue of keys"
CASES: list[tuple[str, Callable[[Any], Any], str, dict[str, str]]] = [
    (
        "solo_learn",
        solo_learn,
        "state_dict/backbone.",
        {
            "state_dict/classifier": PROBE,
            "state_dict/projector": NECK,
            "state_dict/predictor": "predictor",
            "state_dict/momentum_backbone": f"the momentum encoder: {RUNNING}",
            "state_dict/momentum_projector": "head of the momentum encoder",
            "state_dict/momentum_classifier": "head of the momentum encoder",
            "state_dict/queue": QUEUE,
        },
    ),
    (
        "solo_learn",
        solo_learn_old,
        "state_dict/encoder.",
        {"state_dict/classifier": PROBE, "state_dict/projector": NECK},
    ),
    (
        "lightly",
        lightly_moco,
        "state_dict/backbone.",
        {
            "state_dict/projection_head": NECK,
            "state_dict/key_projection_head": NECK,
            "state_dict/key_backbone": f"the momentum encoder: {RUNNING}",
            "state_dict/criterion": "state of the loss",
            "state_dict/online_classifier": PROBE,
        },
    ),
    (
        "lightly",
        lightly_byol,
        "state_dict/backbone.",
        {
            "state_dict/projection_head": NECK,
            "state_dict/student_projection_head": NECK,
            "state_dict/student_prediction_head": NECK,
            "state_dict/teacher_backbone": f"the momentum encoder: {RUNNING}",
            "state_dict/teacher_projection_head": NECK,
            "state_dict/online_classifier": PROBE,
        },
    ),
    (
        "lightly",
        lightly_dino,
        "state_dict/backbone.",
        {
            "state_dict/projection_head": NECK,
            "state_dict/student_backbone": "the student",
            "state_dict/student_projection_head": NECK,
            "state_dict/criterion": "state of the loss",
            "state_dict/online_classifier": PROBE,
        },
    ),
    (
        "lightly",
        lightly_compiled,
        "state_dict/backbone._orig_mod.",
        {"state_dict/projection_head": NECK, "state_dict/online_classifier": PROBE},
    ),
    (
        "stable_pretraining",
        stable_pretraining,
        "state_dict/_orig_mod.backbone.",
        {"state_dict/projector": NECK, "state_dict/callbacks_modules": PROBE},
    ),
    (
        "stable_pretraining",
        stable_pretraining_teacher,
        "state_dict/backbone.teacher.",
        {
            "state_dict/backbone.student": "the student",
            "state_dict/projector": NECK,
            "state_dict/predictor": "predictor",
            "state_dict/callbacks_modules": PROBE,
        },
    ),
    ("lightning", lightning, "state_dict/net.features.", {"state_dict/projector": NECK}),
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
    path = tmp_path / "checkpoint.ckpt"
    torch.save(content(peers), path)
    warned = ("assumed to be ImageNet's",) if form == "lightning" else ()
    prove(path, peers.resnet(0), form=form, chosen=chosen, dropped=dropped, warned=warned)


def test_solo_learn_pads_its_cifar_stem_by_two(tmp_path: Path, peers: Any, prove: Any) -> None:
    resnet = peers.resnet(0)
    resnet.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=2, bias=False)
    resnet.maxpool = nn.Identity()
    path = tmp_path / "cifar.ckpt"
    torch.save(peers.lightning(peers.parts({"backbone": resnet, "classifier": nn.Linear(512, 10)})), path)
    found = prove(
        path,
        resnet,
        form="solo_learn",
        chosen="state_dict/backbone.",
        dropped={"state_dict/classifier": PROBE},
    )
    assert (found.seen.backbone, found.seen.padding) == ("resnet18_cifar", "wide_stem")


def test_a_cifar_stem_of_others_is_padded_by_one(tmp_path: Path, peers: Any, prove: Any) -> None:
    resnet = peers.resnet(0)
    resnet.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
    resnet.maxpool = nn.Identity()
    path = tmp_path / "cifar.pth"
    torch.save(resnet.state_dict(), path)
    found = prove(path, resnet, form="backbone_only", chosen="", dropped={}, warned=("assumed to be ImageNet's",))
    assert (found.seen.backbone, found.seen.padding) == ("resnet18_cifar", "symmetric")


def test_lightlys_teacher_can_be_selected(tmp_path: Path, peers: Any) -> None:
    path = tmp_path / "byol.ckpt"
    torch.save(lightly_byol(peers), path)
    loaded = load_backbone(path, select="teacher_backbone")
    assert loaded.metadata.prefix == "state_dict/teacher_backbone."
    assert torch.equal(loaded.module.state_dict()["conv1.weight"], peers.resnet(1).conv1.weight)
    assert inspect_file(path, select="state_dict/teacher_backbone.").why == (
        "selected by --select state_dict/teacher_backbone."
    )
    with pytest.raises(InputError, match=r"--select 'nobody' names no encoder .*state_dict/teacher_backbone\."):
        load_backbone(path, select="nobody")
