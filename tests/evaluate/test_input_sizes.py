"""The size rule looks at every image of the splits, and the row says what it saw."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.cli import main
from evaluate.inputs import sizes
from evaluate.inputs import test_input as input_of
from evaluate.protocols.knn import PROTOCOLS
from pretrain.backbones.handover import Normalization
from pretrain.data.catalog import Catalog

DINO = PROTOCOLS["dino"]


def folder(root: Path, sides: dict[str, list[tuple[int, int]]]) -> Catalog:
    """An image folder of two classes, (width, height) of each image by split; the classes differ in colour."""
    for split, given in sides.items():
        for label in "ab":
            place = root / split / label
            place.mkdir(parents=True)
            for number, size in enumerate(given):
                colour = (200, 30, number) if label == "a" else (30, 200, number)
                Image.new("RGB", size, colour).save(place / f"{number}.png")
    splits = ", ".join(f"{split}: {split}" for split in sides)
    (root / "catalog.yaml").write_text(f"mixed: {{format: imagefolder, {splits}}}\n")
    return Catalog.load(root / "catalog.yaml")


def transform(catalog: Catalog, rows: list[int] | None = None, **changes: object):
    train, test = (catalog.images("mixed", split) for split in ("train", "test"))
    if rows is not None:
        train = train.subset(np.array(rows))
    return input_of(DINO.override(changes), train, Normalization(), test=test)


def test_a_small_first_image_does_not_shrink_the_set(tmp_path: Path) -> None:
    """A set of 300 px images whose first file has 32 px was measured at 32 px."""
    catalog = folder(tmp_path, {"train": [(32, 32), (300, 300), (300, 200)], "test": [(300, 300)]})
    for rows in (None, [0, 3], [1, 2, 4]):  # nor do the rows that `per_class` draws
        found = transform(catalog, rows)
        assert (found.resize, found.crop) == (256, 224)


def test_the_test_split_counts_too(tmp_path: Path) -> None:
    catalog = folder(tmp_path, {"train": [(32, 32)], "test": [(300, 300)] * 3})
    assert transform(catalog).crop == 224


@pytest.mark.parametrize(
    ("train", "test", "resize", "crop"),
    [
        ([(32, 32)] * 2, [(32, 32)], None, 32),  # one size: the pixels as they are
        ([(48, 32)] * 2, [(48, 32)], None, 32),
        ([(40, 32), (36, 30)], [(64, 64)], 32, 32),  # several small sizes: the median shorter side
        ([(32, 32)] * 4, [(500, 400)], 32, 32),  # one large image among small ones
        ([(64, 64)], [(64, 64)], None, 64),
        ([(65, 64)], [(65, 64)], 256, 224),
    ],
)
def test_the_rule(tmp_path: Path, train, test, resize, crop) -> None:
    found = transform(folder(tmp_path, {"train": train, "test": test}))
    assert (found.resize, found.crop) == (resize, crop)
    assert transform(Catalog.load(tmp_path / "catalog.yaml"), native_up_to_px=0).crop == 224


def test_sizes_are_of_the_longer_sides(tmp_path: Path) -> None:
    catalog = folder(tmp_path, {"train": [(10, 40), (30, 20), (50, 60)]})
    seen = sizes([catalog.images("mixed", "train")])
    assert (seen.smallest_px, seen.median_px, seen.largest_px, seen.short_median_px) == (30, 40, 60, 20)
    assert str(seen) == "images of 30 to 60 px (longer side, median 40)"


def test_the_row_says_what_was_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = folder(tmp_path, {"train": [(32, 32), (300, 300), (200, 300)], "test": [(300, 300)]})
    command = ["evaluate", "knn", "--catalog", str(catalog.path), "--checkpoint", "random:cifar_resnet20"]
    command += ["--data", "mixed", "--set", "k=2", "--set", "also_k=[]", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["fastmoco", *command])
    with contextlib.suppress(SystemExit):
        main()
    assert json.loads((tmp_path / "out" / "result.json").read_text())["run"]["data"]["seen"] == {
        "input": {
            "smallest_px": 32,
            "median_px": 300,
            "largest_px": 300,
            "short_median_px": 250,
            "resize_px": 256,
            "crop_px": 224,
            "native": False,
        }
    }
    from results.store.store import load

    row = load([tmp_path / "out"]).rows.iloc[0]
    assert json.loads(row["data_seen"])["input"]["median_px"] == 300
