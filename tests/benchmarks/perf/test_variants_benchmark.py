"""The cost of a campaign's recipes: which of them differ, and by how much."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.perf.variants import compare, shown, variants
from pretrain.runtime.errors import InputError

SPEC = """
name: small
pretrain:
  one:     {recipe: shapes_demo, data: shapes, set: {grid: 1, combine: 1, views.size: 32}}
  longer:  {recipe: shapes_demo, data: shapes, set: {grid: 1, combine: 1, views.size: 32, epochs: 9, base_lr: 0.2}}
  four:    {recipe: shapes_demo, data: shapes, set: {views.size: 32}}
  overlap: {recipe: shapes_demo, data: shapes, set: {views.size: 32, overlap: 0.5}}
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SPEC, encoding="utf-8")
    return path


def test_recipes_whose_steps_are_the_same_are_timed_once(spec: Path) -> None:
    assert list(variants(spec, [], None)) == ["one", "four", "overlap"]
    assert list(variants(spec, ["longer", "four"], 8)) == ["longer", "four"]
    assert variants(spec, [], 8)["one"].global_batch_size == 8


def test_a_label_that_is_none_is_refused_with_those_that_are(spec: Path) -> None:
    with pytest.raises(InputError, match=r"pretraining 'three'.*four, longer, one, overlap"):
        variants(spec, ["three"], None)


def test_overlapping_patches_cost_as_many_more_flops_as_they_have_pixels(spec: Path) -> None:
    found = compare(variants(spec, [], 4), "one", 2, torch.device("cpu"))
    steps = found["steps"]
    assert steps["one"]["time_ratio"] == 1
    # Of a step of `one` a quarter is the key encoder's forward pass; the queries' three quarters grow by 1.5 ** 2.
    assert steps["four"]["flops_ratio"] == pytest.approx(1, rel=0.02)
    assert steps["overlap"]["flops_ratio"] == pytest.approx(0.25 + 0.75 * 1.5**2, rel=0.02)
    assert steps["overlap"]["time_ratio"] > 1
    lines = shown(found).splitlines()
    assert lines[0].startswith("cifar_resnet20 at 32 px, batch 4, float32, CPU seconds of one thread")
    assert [line.split()[0] for line in lines[2:]] == ["one", "four", "overlap"]
