"""Files of OpenMMLab's frameworks (OpenSelfSup to mmpretrain) and of VISSL."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

HEAD, NECK = "classifier or projection on top of the trunk", "projection head"
RUNNING = "its running average"


def openselfsup_moco(p: Any) -> Any:
    # MMSelfSup 0.x and DenseCL: the online encoder has two names, `backbone` and the first part of `encoder_q`.
    backbone, neck = p.resnet(0), p.parts({"mlp": p.mlp(512, 64, 16)})
    model = p.parts(
        {
            "encoder_q": nn.Sequential(backbone, neck),
            "encoder_k": nn.Sequential(p.resnet(1), neck),
            "backbone": backbone,
            "head": p.parts({"criterion": nn.CrossEntropyLoss()}),
        },
        queue=torch.randn(16, 32),
        queue_ptr=torch.zeros(1, dtype=torch.long),
        queue2=torch.randn(16, 32),
        queue2_ptr=torch.zeros(1, dtype=torch.long),
    )
    return {
        "meta": {"epoch": 200, "iter": 1001, "mmcv_version": "1.3.9", "time": "Tue"},
        "state_dict": model.state_dict(),
        "optimizer": p.optimizer(model),
    }


def openselfsup_byol(p: Any) -> Any:
    backbone, neck = p.resnet(0), p.parts({"mlp": p.mlp(512, 64, 16)})
    model = p.parts(
        {
            "online_net": nn.Sequential(backbone, neck),
            "target_net": nn.Sequential(p.resnet(1), neck),
            "backbone": backbone,
            "head": p.parts({"predictor": p.mlp(16, 16)}),
        }
    )
    return {"meta": {"epoch": 200}, "state_dict": model.state_dict(), "optimizer": p.optimizer(model)}


def openselfsup_simclr(p: Any) -> Any:
    model = p.parts({"backbone": p.resnet(0), "neck": p.parts({"fc0": nn.Linear(512, 16)})})
    return {"meta": {"epoch": 200}, "state_dict": model.state_dict(), "optimizer": p.optimizer(model)}


def mmengine(p: Any, model: nn.Module) -> Any:
    from mmengine.logging import HistoryBuffer

    return {
        "meta": {"epoch": 200, "iter": 1001, "cfg": "model = dict()", "seed": 0},
        "state_dict": model.state_dict(),
        "message_hub": {
            "log_scalars": {"train/loss": HistoryBuffer(np.arange(3.0), np.ones(3))},
            "runtime_info": {"epoch": np.int64(3)},
            "resumed_keys": {},
        },
        "optimizer": p.optimizer(model),
        "param_schedulers": [{"last_step": 1}],
    }


def mmpretrain_moco(p: Any) -> Any:
    # 1.x keeps the running average in mmengine's MomentumAnnealingEMA, whose child is called `module`.
    average = nn.Sequential(p.resnet(1), p.parts({"mlp": p.mlp(512, 16)}))
    model = p.parts(
        {
            "backbone": p.resnet(0),
            "neck": p.parts({"mlp": p.mlp(512, 16)}),
            "encoder_k": p.parts({"module": average}, steps=torch.tensor(3)),
        },
        queue=torch.randn(16, 32),
        queue_ptr=torch.zeros(1, dtype=torch.long),
    )
    return mmengine(p, model)


def mmpretrain_byol(p: Any) -> Any:
    average = nn.Sequential(p.resnet(1), p.parts({"mlp": p.mlp(512, 16)}))
    model = p.parts(
        {
            "backbone": p.resnet(0),
            "neck": p.parts({"mlp": p.mlp(512, 16)}),
            "head": p.parts({"predictor": p.mlp(16, 16)}),
            "target_net": p.parts({"module": average}, steps=torch.tensor(3)),
        },
    )
    return mmengine(p, model)


def mmpretrain_moco_v3(p: Any) -> Any:
    average = nn.Sequential(p.resnet(1), p.parts({"mlp": p.mlp(512, 16)}))
    model = p.parts(
        {
            "backbone": p.resnet(0),
            "neck": p.parts({"mlp": p.mlp(512, 16)}),
            "head": p.parts({"predictor": p.mlp(16, 16)}),
            "momentum_encoder": p.parts({"module": average}, steps=torch.tensor(3)),
        },
    )
    return mmengine(p, model)


def mm_extracted(p: Any) -> Any:
    return {"state_dict": p.resnet(0).state_dict(), "author": "OpenSelfSup"}


def vissl(p: Any) -> Any:
    trunk = p.parts({"_feature_blocks": p.resnet(0)})
    heads = p.parts({"0": p.parts({"clf": p.mlp(512, 16)})})
    return {
        "phase_idx": 99,
        "iteration": 1001,
        "classy_state_dict": {
            "train": True,
            "base_model": {"model": {"trunk": trunk.state_dict(), "heads": heads.state_dict()}, "meters": {}},
            "loss": p.parts(
                {"moco_encoder": p.parts({"trunk": p.parts({"_feature_blocks": p.resnet(1)})})}
            ).state_dict(),
            "optimizer": {"state": {}},
        },
    }


def vissl_old(p: Any) -> Any:
    return {"model_state_dict": p.parts({"_feature_blocks": p.resnet(0)}).state_dict()}


TWICE = "the backbone under its second name"
PROBE = "probe trained beside the encoder"
QUEUE = "queue of keys"
CASES: list[tuple[str, Callable[[Any], Any], str, dict[str, str]]] = [
    (
        "openselfsup",
        openselfsup_moco,
        "state_dict/backbone.",
        {
            "state_dict/encoder_q.0": TWICE,
            "state_dict/encoder_q.1": "neck",
            "state_dict/encoder_k.0": f"the key or target encoder: {RUNNING}",
            "state_dict/encoder_k.1": "neck",
            "state_dict/queue": QUEUE,
        },
    ),
    (
        "openselfsup",
        openselfsup_byol,
        "state_dict/backbone.",
        {
            "state_dict/online_net.0": TWICE,
            "state_dict/online_net.1": "neck",
            "state_dict/target_net.0": f"the key or target encoder: {RUNNING}",
            "state_dict/target_net.1": "neck",
            "state_dict/head": HEAD,
        },
    ),
    (
        "mmpretrain",
        mmpretrain_moco,
        "state_dict/backbone.",
        {
            "state_dict/neck": NECK,
            "state_dict/encoder_k": f"the momentum encoder: {RUNNING}",
            "state_dict/queue": QUEUE,
        },
    ),
    (
        "mmpretrain",
        mmpretrain_byol,
        "state_dict/backbone.",
        {
            "state_dict/neck": NECK,
            "state_dict/head": HEAD,
            "state_dict/target_net": f"the momentum encoder: {RUNNING}",
        },
    ),
    (
        "mmpretrain",
        mmpretrain_moco_v3,
        "state_dict/backbone.",
        {
            "state_dict/neck": NECK,
            "state_dict/head": HEAD,
            "state_dict/momentum_encoder": f"the momentum encoder: {RUNNING}",
        },
    ),
    ("mmpretrain", openselfsup_simclr, "state_dict/backbone.", {"state_dict/neck": NECK}),
    ("mm_extracted", mm_extracted, "state_dict", {}),
    (
        "vissl",
        vissl,
        "classy_state_dict/base_model/model/trunk/_feature_blocks.",
        {
            "classy_state_dict/base_model/model/heads/0": "head",
            "classy_state_dict/loss/moco_encoder": f"the momentum encoder: {RUNNING}",
        },
    ),
    ("vissl", vissl_old, "model_state_dict/_feature_blocks.", {}),
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
    path = tmp_path / "checkpoint.pth"
    torch.save(content(peers), path)
    found = prove(path, peers.resnet(0), form=form, chosen=chosen, dropped=dropped)
    if content is openselfsup_moco:
        twins = {each.label: each.equal_to for each in found.seen.candidates}
        assert twins["state_dict/backbone."] == ("state_dict/encoder_q.0.",)
        assert twins["state_dict/encoder_k.0."] == ()
