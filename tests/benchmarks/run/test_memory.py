"""Out of memory: one sentence that names the setting to lower."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.run.memory import out_of_memory_explained
from benchmarks.run.request import Request
from evaluate.task import resolve_protocol
from pretrain.recipes import RECIPES
from pretrain.runtime.errors import RunFailedError

TOLD = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.10 GiB of which"


def request(kind: Any, task: str, settings: dict[str, Any], name: str) -> Request:
    given = {"data": "shapes", "data_identity": "x", "seed": 0}
    return Request(kind=kind, task=task, settings_name=name, settings=settings, **given)


@pytest.mark.parametrize(
    ("task", "name", "advice"),
    [
        ("pretrain", "r50_e100", "--set micro_batch_size=256 passes the batch in parts"),
        ("linear", "moco_v3", "--set global_batch_size=512 needs less; the lr follows by the protocol's rule"),
        ("linear", "sweep", "--set batch_size="),
        ("knn", "dino", "--set query_chunk=1024 needs less"),
        ("logreg", "dinov2", "use a device with more memory"),
    ],
)
def test_the_sentence_names_the_setting(task: str, name: str, advice: str) -> None:
    kind = "pretrain" if task == "pretrain" else "evaluate"
    settings = RECIPES[name] if kind == "pretrain" else resolve_protocol(task, name)
    asked = request(kind, task, settings.model_dump(mode="json"), name)
    with pytest.raises(RunFailedError) as failure, out_of_memory_explained(asked):
        raise torch.OutOfMemoryError(TOLD)
    assert str(failure.value).startswith(
        "the device is out of memory (CUDA out of memory. Tried to allocate 20.00 GiB); "
    )
    assert advice in str(failure.value)
    assert "\n" not in str(failure.value)
