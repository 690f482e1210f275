"""Sets of torchvision that VTAB and ELEVATER use: tiny stand-ins in the layout of the real files, by split."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets as library
from PIL import Image

from pretrain.data import torchvision_facts
from pretrain.data.catalog import Catalog

K = 3


def _image(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, value, value)).save(path)


def _eurosat(root: Path) -> None:
    for label in range(K):
        for row in range(5):
            _image(root / f"eurosat/2750/c{label}/{row}.jpg", 80 * label)


def _gtsrb(root: Path) -> None:
    lines = ["Filename;ClassId"]
    for label in range(K):
        _image(root / f"gtsrb/GTSRB/Training/{label:05d}/0.ppm", 80 * label)
        _image(root / f"gtsrb/GTSRB/Final_Test/Images/{label}.ppm", 80 * label)
        lines.append(f"{label}.ppm;{label}")
    (root / "gtsrb/GT-final_test.csv").write_text("\n".join(lines) + "\n")


def _svhn(root: Path) -> None:
    from scipy.io import savemat

    for split in ("train", "test"):
        pixels = np.stack([np.full((32, 32, 3), 80 * label, dtype=np.uint8) for label in range(K)], axis=3)
        savemat(root / f"{split}_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [2]], dtype=np.uint8)})


def _country211(root: Path) -> None:
    for split in ("train", "valid", "test"):
        for label in range(K):
            _image(root / f"country211/{split}/c{label}/0.jpg", 80 * label)


def _fer2013(root: Path) -> None:
    (root / "fer2013").mkdir()
    lines = ["emotion,pixels,Usage"]
    for usage in ("Training", "PublicTest", "PrivateTest"):
        lines += [f"{label},{' '.join([str(80 * label)] * 48 * 48)},{usage}" for label in range(K)]
    (root / "fer2013/fer2013.csv").write_text("\n".join(lines) + "\n")


def _sst2(root: Path) -> None:
    for split in ("train", "valid", "test"):
        for label, name in enumerate(("negative", "positive")):
            _image(root / f"rendered-sst2/{split}/{name}/0.png", 80 * label)


def _clevr(root: Path) -> None:
    base = root / "clevr/CLEVR_v1.0"
    (base / "scenes").mkdir(parents=True)
    for split in ("train", "val"):
        scenes = []
        for label in range(K):
            _image(base / f"images/{split}/{label}.png", 80 * label)
            scenes.append({"image_filename": f"{label}.png", "objects": [{}] * (label + 3)})
        (base / f"scenes/CLEVR_{split}_scenes.json").write_text(json.dumps({"scenes": scenes}))


def _imagenette(root: Path) -> None:
    for split in ("train", "val"):
        for label, wnid in enumerate(("n01440764", "n02102040", "n02979186")):
            _image(root / f"imagenette2/{split}/{wnid}/0.jpeg", 80 * label)
            (root / f"imagenette2/{split}/{wnid}/0.jpeg").rename(root / f"imagenette2/{split}/{wnid}/0.JPEG")


def _inaturalist(root: Path) -> None:
    for version in ("2021_train", "2021_valid"):
        for label in range(K):
            _image(root / f"{version}/{label:05d}_a_b_c_d_e_f_g/0.jpg", 80 * label)


@pytest.mark.parametrize(
    ("name", "make", "classes", "counts"),
    [
        ("EuroSAT", _eurosat, ("c0", "c1", "c2"), {"train": 12, "test": 3}),
        ("GTSRB", _gtsrb, tuple(map(str, range(43))), {"train": 3, "test": 3}),
        ("SVHN", _svhn, tuple(map(str, range(10))), {"train": 3, "test": 3}),
        ("Country211", _country211, ("c0", "c1", "c2"), {"train": 3, "val": 3, "test": 3}),
        ("FER2013", _fer2013, None, {"train": 3, "test": 6}),
        ("RenderedSST2", _sst2, ("negative", "positive"), {"train": 2, "val": 2, "test": 2}),
        ("CLEVRClassification", _clevr, tuple(map(str, range(3, 11))), {"train": 3, "test": 3}),
        ("Imagenette", _imagenette, ("tench", "English springer", "cassette player"), {"train": 3, "val": 3}),
        ("INaturalist", _inaturalist, None, {"train": 3, "val": 3}),
    ],
)
def test_each_split(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    make: Callable[[Path], None],
    classes: tuple[str, ...] | None,
    counts: dict[str, int],
) -> None:
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    known = torchvision_facts.SETS[name]
    number = len(classes) if classes else {"FER2013": 7, "INaturalist": K}[name]
    small = dataclasses.replace(known, classes=number, **counts)
    monkeypatch.setitem(torchvision_facts.SETS, name, small)
    for module in (library.svhn, library.fer2013):  # checksums of the real files
        monkeypatch.setattr(module, "check_integrity", lambda *_args, **_kwargs: True)
    (tmp_path / "catalog.yaml").write_text(f"s: {{format: torchvision, name: {name}, root: data}}\n")
    catalog = Catalog.load(tmp_path / "catalog.yaml")
    assert catalog.entry("s").splits() == tuple(counts)
    seen: set[str] = set()
    for split, count in counts.items():
        images = catalog.images("s", split)
        assert len(images) == count
        assert classes is None or images.classes == classes
        for row in range(count):
            assert abs(int(images.decode(row)[0, 0, 0]) - 80 * int(images.labels[row])) <= 2
        if name == "EuroSAT":
            assert not seen & {images.where(row) for row in range(count)}
            seen |= {images.where(row) for row in range(count)}
