"""Sets as people bring them, through the command: images without labels are pretrained on and refused by tasks."""

from __future__ import annotations

import io
import json
import logging
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from benchmarks.cli import main

N = 8
TINY = (
    *("--recipe", "cifar_resnet20_e10", "--set", "epochs=1", "--set", "warmup_epochs=0", "--set", "views.size=8"),
    *("--set", "global_batch_size=8", "--set", "projector.hidden=8", "--set", "predictor.hidden=8"),
    *("--set", "online_knn_every=0", "--set", "workers=0", "--device", "cpu"),
)


def _png(row: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 20 * row, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def _write(folder: Path, names: list[str]) -> None:
    for row, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_png(row))


def _flat(base: Path) -> str:
    _write(base / "d", [f"{row}.png" for row in range(N)])
    return "{format: imagefolder, train: d}"


def _nested(base: Path) -> str:
    _write(base / "d", [f"a/b/{row}.png" if row % 2 else f"{row}.png" for row in range(N)])
    return "{format: imagefolder, train: d}"


def _bare_list(base: Path) -> str:
    _write(base / "d", [f"{row}.png" for row in range(N)])
    (base / "l.txt").write_text("".join(f"{row}.png\n" for row in range(N)))
    return "{format: filelist, root: d, train: l.txt}"


def _shards(base: Path) -> str:
    with tarfile.open(base / "s.tar", "w") as archive:
        for row in range(N):
            # A caption and metadata are no labels; some images lack them.
            members = {f"{row}.png": _png(row)}
            if row:
                members |= {f"{row}.txt": b"a caption", f"{row}.json": b'{"url": 1}'}
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return "{format: tar, train: s.tar}"


def _parquet(base: Path) -> str:
    images = [{"bytes": _png(row), "path": f"{row}.png"} for row in range(N)]
    pq.write_table(pa.table({"image": images}), base / "p.parquet")
    return "{format: parquet, train: p.parquet}"


def _coco(base: Path) -> str:
    _write(base / "d", [f"{row}.png" for row in range(N)])
    images = [{"id": row, "file_name": f"{row}.png", "width": 8, "height": 8} for row in range(N)]
    (base / "c.json").write_text(json.dumps({"images": images}))  # COCO's image_info: no annotations
    return "{format: coco, train: {images: d, json: c.json}}"


def _masks(base: Path) -> str:
    _write(base / "d", [f"town/{row}_left.png" for row in range(N)])
    return "{format: masks, train: {images: d, masks: none}, classes: [a, b], image_suffix: _left.png}"


def _voc(base: Path) -> str:
    _write(base / "v" / "JPEGImages", [f"{row}.png" for row in range(N)])
    (base / "v" / "ImageSets" / "Main").mkdir(parents=True)
    (base / "v" / "ImageSets" / "Main" / "all.txt").write_text("".join(f"{row}\n" for row in range(N)))
    return "{format: voc, root: v, train: all}"


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def call(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["fastmoco", *map(str, words)])
        try:
            main()
        except SystemExit as left:
            return int(left.code or 0)
        return 0

    yield call
    for handler in logging.getLogger().handlers[:]:  # what `main` set up writes to this test's stderr
        if type(handler) is logging.StreamHandler:
            logging.getLogger().removeHandler(handler)


@pytest.mark.parametrize("brought", [_flat, _nested, _bare_list, _shards, _parquet, _coco, _masks, _voc])
def test_pictures_without_labels(
    brought: Callable[[Path], str], tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = tmp_path / "catalog.yaml"
    catalog.write_text(f"mine: {brought(tmp_path)}\n")
    out = tmp_path / "out"
    assert command("pretrain", *TINY, "--data", "mine", "--catalog", catalog, "--out", out) == 0
    assert (out / "backbone.safetensors").is_file()
    metrics = {metric["name"]: metric["value"] for metric in json.loads((out / "result.json").read_text())["metrics"]}
    assert np.isfinite(metrics["loss"])
    capsys.readouterr()
    test = tmp_path / "test"
    weights = ("--checkpoint", "random:cifar_resnet20", "--data", "mine", "--catalog", catalog)
    assert command("evaluate", "knn", *weights, "--out", test) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    expected = {_coco: "holds no labelled images", _masks: "holds no labelled images", _voc: "no annotation at"}
    assert expected.get(brought, "not evaluated") in told
    assert not test.exists()
    if brought in (_flat, _bare_list, _shards, _parquet):
        page = tmp_path / "page.html"
        assert command("data", "check", "mine", "--open", "--html", page, "--catalog", catalog) == 0
        assert page.read_text().count("data:image/webp") == N
        assert "none: no labels, for pretraining only" in capsys.readouterr().out


def _folders(base: Path, side: int = 8) -> Path:
    for split in ("train", "test"):
        for row in range(2 * N):
            path = base / split / "ab"[row % 2] / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (side, side), (250 * (row % 2), row, len(split))).save(path)
    catalog = base / "catalog.yaml"
    catalog.write_text("mine: {format: imagefolder, train: train, test: test}\n")
    return catalog


def test_damaged_images_of_train_are_left_out_when_asked(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = _folders(tmp_path)
    (tmp_path / "train" / "a" / "0.png").write_bytes(b"no image")
    cut = tmp_path / "train" / "b" / "1.png"
    cut.write_bytes(cut.read_bytes()[:50])  # its header is whole
    knn = ("evaluate", "knn", "--checkpoint", "random:cifar_resnet20", "--data", "mine", "--catalog", catalog)
    knn = (*knn, "--set", "k=1", "--set", "also_k=[]", "--device", "cpu")
    assert command(*knn, "--out", tmp_path / "stop") == 2
    assert "0.png does not decode" in capsys.readouterr().err
    out = tmp_path / "skip"
    assert command(*knn, "--set", "damaged_train=skip", "--out", out) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["run"]["data"]["seen"]["damaged_train"] == 2
    assert result["metrics"][0]["n"] == 2 * N
    damaged_test = tmp_path / "test" / "b" / "1.png"
    damaged_test.write_bytes(damaged_test.read_bytes()[:50])
    assert command(*knn, "--set", "damaged_train=skip", "--out", tmp_path / "test_too") == 2
    assert f"{damaged_test} does not decode" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["png", "jpg"])
def test_the_largest_image_that_is_read_can_be_set(
    kind: str, tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = _folders(tmp_path)
    Image.new("RGB", (50, 40)).save(tmp_path / "train" / "a" / f"large.{kind}")
    text = catalog.read_text().replace("}", ", max_pixels: 1999}")
    catalog.write_text(text)
    assert command("data", "check", "mine", "--catalog", catalog) != 0
    assert "50 x 40 = 2000 pixels" in capsys.readouterr().out.replace("\n", " ").replace("  ", " ")
    knn = ("evaluate", "knn", "--checkpoint", "random:cifar_resnet20", "--data", "mine", "--catalog", catalog)
    assert command(*knn, "--out", tmp_path / "out") == 2
    assert f"large.{kind} has 50 x 40 = 2000 pixels, more than `max_pixels` allows (1999)" in capsys.readouterr().err
    catalog.write_text(text.replace("1999", "2000"))
    assert command("data", "check", "mine", "--open", "--catalog", catalog) == 0


def test_a_home_folder_in_every_path(
    tmp_path: Path, command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # a folder called `~` would be made here
    _folders(tmp_path / "home")
    (tmp_path / "home" / "lists.yaml").write_text("mine: {format: imagefolder, train: ~/train, test: ~/test}\n")
    for catalog in ("~/catalog.yaml", "~/lists.yaml"):
        page = "--html=~/page.html" if "lists" in catalog else "--html=~/other.html"
        assert command("data", "check", "mine", "--catalog", catalog, page) == 0
    assert (tmp_path / "home" / "page.html").is_file()
    weights = ("--checkpoint", "random:cifar_resnet20", "--data", "mine", "--catalog=~/catalog.yaml")
    knn = ("evaluate", "knn", *weights, "--set", "k=1", "--set", "also_k=[]", "--device", "cpu")
    assert command(*knn, "--out=~/knn") == 0
    assert (tmp_path / "home" / "knn" / "result.json").is_file()
    assert list((tmp_path / "elsewhere").iterdir()) == []
