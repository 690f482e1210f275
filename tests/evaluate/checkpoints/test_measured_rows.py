"""The committed rows of third-party files: each says which bits were measured, and AugNet beats random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SHA256 = {
    "augnet": "c2cb3cac82642c5698721bd4c57702c3d2ffab077ee9fc277c60ef7359293add",
    "resnet20": "12fca82f0bebc4135bf1f32f6e3710e61d5108578464b84fd6d7f5c1b04036c8",
}
PREFIX = {"augnet": "module.pre.", "resnet20": "state_dict/module."}


@pytest.fixture(scope="module")
def results() -> list[dict[str, Any]]:
    path = Path(__file__).resolve().parents[3] / "results" / "measured" / "third_party.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_row_carries_its_provenance(results: list[dict[str, Any]]) -> None:
    labels = {result["run"]["checkpoint"]["label"] for result in results}
    assert labels == {"augnet", "random_resnet50", "resnet20"}
    for result in results:
        checkpoint = result["run"]["checkpoint"]
        label = checkpoint["label"]
        assert checkpoint["sha256"] == SHA256.get(label, checkpoint["sha256"])
        assert checkpoint["prefix"] == PREFIX.get(label)
        assert checkpoint["format"] == ("plain" if label in SHA256 else "random")
        assert checkpoint["normalization"]["channels"] == "RGB"
        assert checkpoint["normalization"]["std"] == [0.229, 0.224, 0.225]


@pytest.mark.parametrize("task", ["knn", "linear"])
@pytest.mark.parametrize("data", ["cifar10", "vegetables"])
def test_weights_from_images_beat_random_ones(results: list[dict[str, Any]], task: str, data: str) -> None:
    top1 = {
        result["run"]["checkpoint"]["label"]: metric["value"]
        for result in results
        for metric in result["metrics"]
        if (result["run"]["task"], result["run"]["data"]["name"], metric["name"]) == (task, data, "top1")
    }
    assert top1["augnet"] > top1["random_resnet50"] + 15
