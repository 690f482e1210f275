"""A batch of one image where a map has one pixel: batch norm has no variance there, which was a traceback."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

from benchmarks.cli import main
from evaluate.guards import fewest_values
from evaluate.trained.train_data import rows_of_step, smallest_batch
from pretrain.backbones import registry
from pretrain.runtime.distributed import Ranks


def parquet(path: Path, labels: list[int], side: int) -> None:
    rng, images = np.random.default_rng(len(labels)), []
    for row, label in enumerate(labels):
        stream = io.BytesIO()
        picture = rng.integers(0, 60, (side, side, 3)) + np.array([60 * label, 90, 190 - 60 * label])
        Image.fromarray(picture.astype(np.uint8)).save(stream, "PNG")
        images.append({"bytes": stream.getvalue(), "path": f"{row}.png"})
    layout = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, layout), "label": pa.array(labels, pa.int64())}), path)


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    """Seven training images of 4 px, of which a CIFAR ResNet makes maps of one pixel, and of 8 px, two pixels a side.

    Labels: three classes, so that 10 % of them are three images.
    """
    for side in (4, 8):
        parquet(tmp_path / f"train{side}.parquet", [0, 1, 2, 0, 1, 2, 0], side)
        parquet(tmp_path / f"test{side}.parquet", [0, 1, 2], side)
    path = tmp_path / "catalog.yaml"
    path.write_text(
        "".join(
            f"of{side}: {{format: parquet, train: train{side}.parquet, test: test{side}.parquet, classes: 3}}\n"
            for side in (4, 8)
        )
    )
    return path


def command(monkeypatch, capsys, catalog: Path, task: str, data: str, *sets: str) -> tuple[int, str, Path]:
    """Exit code, what was said and the folder of the run."""
    out = catalog.parent / "out"
    words = ["--catalog", str(catalog), "evaluate", task, "--checkpoint", "random:cifar_resnet20", "--data", data]
    words += ["--protocol", "barlow_twins", "--out", str(out), "--set", "epochs=1"]
    monkeypatch.setattr(sys, "argv", ["fastmoco", *words, *(word for one in sets for word in ("--set", one))])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return int(ended.value.code or 0), told, out


@pytest.mark.parametrize(
    ("task", "sets", "told"),
    [
        ("finetune", ["global_batch_size=3"], "the last batch of an epoch (7 training images, 3 a batch) has 1 image"),
        ("finetune", ["global_batch_size=3", "bn=sync"], "the last batch of an epoch (7 training images, 3 a batch)"),
        ("finetune", ["global_batch_size=1"], "a batch has 1 image, and at 4 px a map of 'cifar_resnet20' has 1 pixel"),
        ("semi", ["percent=10", "global_batch_size=2"], "the last batch of an epoch (3 training images, 2 a batch)"),
    ],
)
def test_it_is_refused_in_a_sentence_that_says_what_helps(
    monkeypatch, capsys, catalog: Path, task: str, sets: list[str], told: str
) -> None:
    code, said, out = command(monkeypatch, capsys, catalog, task, "of4", *sets)
    last = said.splitlines()[-1]
    assert code == 2
    assert told in last
    assert "batch norm needs 2 values, expected " in last
    assert ("drop_last=true" in last) == (sets[-1] != "global_batch_size=1")
    assert not out.exists()


@pytest.mark.parametrize(
    ("task", "data", "sets"),
    [
        ("finetune", "of4", ["global_batch_size=3", "drop_last=true"]),
        ("finetune", "of4", ["global_batch_size=3", "bn=eval"]),
        ("finetune", "of4", ["global_batch_size=4"]),  # the last batch has three
        ("finetune", "of4", ["global_batch_size=3", "steps_per_epoch=2"]),  # it never comes to the last batch
        ("finetune", "of8", ["global_batch_size=3"]),  # four values of one image
        ("semi", "of4", ["percent=10", "global_batch_size=2", "drop_last=true"]),
    ],
)
def test_what_the_sentence_names_helps_and_nothing_else_is_refused(
    monkeypatch, capsys, catalog: Path, task: str, data: str, sets: list[str]
) -> None:
    code, said, out = command(monkeypatch, capsys, catalog, task, data, *sets)
    assert code == 0, said
    assert json.loads((out / "result.json").read_text())["metrics"][0]["n"] == 3


def test_the_smallest_batch_is_that_of_the_rows_of_the_steps() -> None:
    for n in range(4, 14):
        for batch in (2, 4):
            for world_size in (1, 2):
                for steps in range(1, 9):
                    for drop_last in (False, True):
                        an_epoch = n // batch if drop_last else -(-n // batch)
                        sizes = [
                            len(rows_of_step(n, batch, 0, 0, step % an_epoch, Ranks(0, world_size)))
                            for step in range(steps)
                        ]
                        assert smallest_batch(n, batch, drop_last, steps, world_size) == min(sizes)


def test_looking_moves_neither_statistics_nor_modes() -> None:
    module = registry.build("cifar_resnet20").train()
    module.layer2.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    assert fewest_values(module, lambda: module(torch.zeros(1, 3, 4, 4))) == 1
    assert fewest_values(module, lambda: module(torch.zeros(2, 3, 8, 8))) == 8
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert fewest_values(nn.Linear(2, 2), lambda: None) is None
    assert fewest_values(module.eval(), lambda: module(torch.zeros(1, 3, 4, 4))) is None
