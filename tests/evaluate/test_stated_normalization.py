"""A protocol whose source normalises otherwise than the checkpoint: the run says so, and keeps to the checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from benchmarks.cli import main
from pretrain.backbones import registry
from pretrain.backbones.handover import BackboneMetadata, Normalization, write_backbone

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A catalog of one tiny set, and a checkpoint that says how its images are normalised."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 12), ("test", 6)):
        for i in range(n):
            path = tmp_path / split / f"c{i % 3}" / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 90, (8, 8, 3)) + np.array([60 * (i % 3), 80, 160 - 60 * (i % 3)])
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    (tmp_path / "catalog.yaml").write_text("set: {format: imagefolder, train: train, test: test}\n")
    normalization = Normalization(mean=MEAN, std=STD)
    metadata = BackboneMetadata(backbone="cifar_resnet20", method="test", normalization=normalization)
    write_backbone(tmp_path / "own.safetensors", registry.build("cifar_resnet20").state_dict(), metadata)
    return tmp_path


def command(monkeypatch, capsys, folder: Path, out: str, task: str, protocol: str, *options: str) -> str:
    words = ["--catalog", folder / "catalog.yaml", "evaluate", task, "--checkpoint", folder / "own.safetensors"]
    words += ["--data", "set", "--protocol", protocol, "--set", "global_batch_size=3", "--out", folder / out, *options]
    monkeypatch.setattr(sys, "argv", ["fastmoco", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, capsys.readouterr().err
    return (folder / out / "log.txt").read_text()


SOURCES = {
    "none": "mean (0.0, 0.0, 0.0) and std (1.0, 1.0, 1.0) (none)",
    "swav": "mean (0.485, 0.456, 0.406) and std (0.228, 0.224, 0.225) (swav)",
}


@pytest.mark.parametrize(
    ("task", "protocol", "stated"),
    [("linear", "simclr", "none"), ("semi", "simclr", "none"), ("linear", "swav", "swav"), ("semi", "swav", "swav")],
)
def test_it_warns_with_both_and_uses_the_checkpoints(
    monkeypatch, capsys, folder: Path, task: str, protocol: str, stated: str
) -> None:
    """`linear simclr` fed pixels in 0..1 to weights that wanted them normalised: 25.4 % in place of 73.2 %."""
    short = ["--set", "epochs=1", *(["--set", "milestones=[1]"] if (task, protocol) == ("semi", "swav") else [])]
    told = command(monkeypatch, capsys, folder, "one", task, protocol, *short)
    sentence = (
        f"the source of '{protocol}' normalises its own weights' images with {SOURCES[stated]}; these weights' images "
        "are normalised with mean (0.5, 0.4, 0.3) and std (0.2, 0.3, 0.25), as the checkpoint says (--normalization "
        "says otherwise)"
    )
    assert sentence in told
    # A protocol without a convention of its own says nothing, and the same numbers come out.
    silent = command(
        monkeypatch, capsys, folder, "two", task, protocol, *short, "--set", "stated_normalization=checkpoint"
    )
    assert "normalises" not in silent
    heads = [load_file(folder / out / "head.safetensors") for out in ("one", "two")]
    assert heads[0]["weight"].any()
    assert all(np.array_equal(heads[0][name], heads[1][name]) for name in heads[0])
    # Said by hand, it is another input and another head.
    by_hand = command(monkeypatch, capsys, folder, "three", task, protocol, *short, "--normalization", "imagenet")
    assert "are normalised with mean (0.485, 0.456, 0.406) and std (0.229, 0.224, 0.225)" in by_hand
    third = load_file(folder / "three" / "head.safetensors")
    assert not np.array_equal(heads[0]["weight"], third["weight"])
