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
