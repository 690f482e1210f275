"""Files of contrastive papers' repositories: each model built as its repository does, saved as its script saves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

PROJECTION, PREDICTOR = "projection head", "predictor"
ON_TOP = "classifier or projection on top of the trunk"


def moco(p: Any, fc: Callable[[], nn.Module]) -> Any:
    model = p.parallel(
        p.parts(
            {"encoder_q": p.resnet(0, fc()), "encoder_k": p.resnet(1, fc())},
            queue=torch.randn(16, 32),
            queue_ptr=torch.zeros(1, dtype=torch.long),
        )
    )
    return {"epoch": 200, "arch": "resnet18", "state_dict": model.state_dict(), "optimizer": p.optimizer(model)}


def moco_v1(p: Any) -> Any:
    return moco(p, lambda: nn.Linear(512, 16))


def moco_v2(p: Any) -> Any:
    return moco(p, lambda: nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 16)))


def moco_v3(p: Any) -> Any:
    model = p.parallel(
        p.parts(
            {
                "base_encoder": p.resnet(0, p.mlp(512, 64, 16)),
                "momentum_encoder": p.resnet(1, p.mlp(512, 64, 16)),
                "predictor": p.mlp(16, 64, 16),
            }
        )
    )
    scaler = {"scale": 65536.0, "growth_factor": 2.0}
    return {
        "epoch": 300,
        "arch": "resnet18",
        "state_dict": model.state_dict(),
        "optimizer": p.optimizer(model),
        "scaler": scaler,
    }


def simsiam(p: Any) -> Any:
    model = p.parallel(p.parts({"encoder": p.resnet(0, p.mlp(512, 64, 16)), "predictor": p.mlp(16, 8, 16)}))
    return {"epoch": 100, "arch": "resnet18", "state_dict": model.state_dict(), "optimizer": p.optimizer(model)}


def simclr_v1(p: Any) -> Any:
    # The converter assigns TensorFlow's statistics to a network that has never counted a batch.
    state = p.resnet(0, nn.Linear(512, 1000)).state_dict()
    return {"state_dict": {n: t * 0 if n.endswith("num_batches_tracked") else t for n, t in state.items()}}


def pixpro(p: Any) -> Any:
    head = nn.Conv2d(512, 16, 1)
    model = p.parallel(
        p.parts(
            {
                "encoder": p.resnet(0),
                "projector": p.parts({"linear1": head}),
                "encoder_k": p.resnet(1),
                "projector_k": p.parts({"linear1": head}),
                "value_transform": nn.Conv2d(16, 16, 1),
            }
        )
    )
    return {
        "opt": p.arguments(),
        "model": model.state_dict(),
        "optimizer": p.optimizer(model),
        "scheduler": {"last_epoch": 100},
        "epoch": 100,
        "amp": {},
    }


def pycontrast(p: Any) -> Any:
    model = p.parallel(
        p.parts({"encoder": p.resnet(0), "head": p.mlp(512, 16), "head_jig": p.parts({"fc1": nn.Linear(512, 16)})})
    )
    average = p.parts({"encoder": p.resnet(1), "head": p.mlp(512, 16)})
    return {
        "opt": p.arguments(),
        "model": model.state_dict(),
        "contrast": {"memory": torch.randn(32, 16)},
        "optimizer": p.optimizer(model),
        "epoch": 800,
        "model_ema": average.state_dict(),
    }


def fast_moco(p: Any) -> Any:
    # The encoder is nn.Sequential(*children of the ResNet), held under two names; so is its running average.
    online, average = (nn.Sequential(*list(p.resnet(seed).children())[:-1]) for seed in (0, 1))
    model = p.parallel(
        p.parts(
            {
                "backbone": online,
                "encoder": nn.Sequential(online, p.mlp(512, 64, 16)),
                "predictor": p.mlp(16, 64, 16),
                "bbone_ema": average,
                "encoder_ema": nn.Sequential(average, p.mlp(512, 64, 16)),
            }
        )
    )
    return {"model": model.state_dict(), "optimizer": p.optimizer(model), "last_iter": 31250}


RUNNING = "its running average"
# format, file, prefix taken, names dropped -> why
CASES: list[tuple[str, Callable[[Any], Any], str, dict[str, str]]] = [
    (
        "moco_v1",
        moco_v1,
        "state_dict/module.encoder_q.",
        {
            "state_dict/encoder_q.fc": PROJECTION,
            "state_dict/encoder_k": f"the key encoder: {RUNNING}",
            "state_dict/queue": "queue of keys",
            "state_dict/queue_ptr": "queue of keys",
        },
    ),
    (
        "moco_v2",
        moco_v2,
        "state_dict/module.encoder_q.",
        {
            "state_dict/encoder_q.fc": PROJECTION,
            "state_dict/encoder_k": f"the key encoder: {RUNNING}",
            "state_dict/queue": "queue of keys",
            "state_dict/queue_ptr": "queue of keys",
        },
    ),
    (
        "moco_v3",
        moco_v3,
        "state_dict/module.base_encoder.",
        {
            "state_dict/base_encoder.fc": PROJECTION,
            "state_dict/momentum_encoder": f"the momentum encoder: {RUNNING}",
            "state_dict/predictor": PREDICTOR,
        },
    ),
    (
        "simsiam",
        simsiam,
        "state_dict/module.encoder.",
        {"state_dict/encoder.fc": PROJECTION, "state_dict/predictor": PREDICTOR},
    ),
    ("simclr_v1", simclr_v1, "state_dict", {"state_dict/fc": ON_TOP}),
    (
        "pixpro",
        pixpro,
        "model/module.encoder.",
        {
            "model/encoder_k": f"the momentum encoder: {RUNNING}",
            "model/projector": PROJECTION,
            "model/projector_k": PROJECTION,
            "model/value_transform": "propagation head",
        },
    ),
    (
        "pycontrast",
        pycontrast,
        "model/module.encoder.",
        {
            "model/head": PROJECTION,
            "model/head_jig": PROJECTION,
            "model_ema/encoder": f"the momentum encoder: {RUNNING}",
            "model_ema/head": f"the momentum encoder: {RUNNING}",
        },
    ),
    (
        "fast_moco_public",
        fast_moco,
        "model/module.backbone.",
        {
            "model/encoder.0": "the backbone under its second name",
            "model/encoder.1": PROJECTION,
            "model/predictor": PREDICTOR,
            "model/bbone_ema": f"the momentum encoder: {RUNNING}",
            "model/encoder_ema.0": f"the momentum encoder: {RUNNING}",
            "model/encoder_ema.1": "projection head of the momentum encoder",
        },
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
    # The older ones of these repositories were written by a torch that knew no zip files.
    torch.save(content(peers), path, _use_new_zipfile_serialization=content not in (moco_v1, simclr_v1, pycontrast))
    found = prove(
        path,
        peers.resnet(0),
        form=form,
        chosen=chosen,
        dropped=dropped,
        normalization="none" if form == "simclr_v1" else "imagenet",
    )
    if content is fast_moco:
        twins = {each.label: each.equal_to for each in found.seen.candidates}
        assert twins["model/backbone."] == ("model/encoder.0.",)
        assert twins["model/bbone_ema."] == ("model/encoder_ema.0.",)
