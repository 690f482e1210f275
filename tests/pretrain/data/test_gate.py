"""`fastmoco data check` as the gate: it refuses what evaluation refuses, and tells the rest at a glance."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.cli import main
from pretrain.data.catalog import Catalog
from pretrain.data.gate.check import check_set
from pretrain.data.gate.duplicates import NEAR_BITS, near_inside, near_pairs, perceptual_hash

PICTURES = np.random.default_rng(3).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)


def saved(number: int, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PICTURES[number]).save(stream, kind, **options)
    return stream.getvalue()


def pets(root: Path, files: dict[str, bytes | None] | None = None) -> Catalog:
    """Two classes of two images in each split, and `files` beside them (None: the file is taken away)."""
    content = {
        f"{split}/{label}/{n}.png": saved(6 * (split == "test") + 2 * (label == "dog") + n)
        for split in ("train", "test")
        for label in ("cat", "dog")
        for n in range(2)
    }
    for name, data in {**content, **(files or {})}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            path.write_bytes(data)
    (root / "catalog.yaml").write_text("pets: {format: imagefolder, train: train, test: test}\n")
    return Catalog.load(root / "catalog.yaml")


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[object, str]:
    monkeypatch.setattr(sys, "argv", ["fastmoco", *map(str, words)])
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    shown = capsys.readouterr()
    return code, shown.out + shown.err


def test_a_whole_set_in_one_table(tmp_path: Path) -> None:
    report = check_set(pets(tmp_path), "pets", open_images=True)
    lines = str(report).splitlines()
    assert lines[0] == "pets: ok"
    assert [line.split() for line in lines[1:6]] == [
        ["train", "test"],
        ["images", "4,", "4", "opened", "4,", "4", "opened"],
        ["classes", "2", "2"],
        ["images", "a", "class", "cat", "2,", "dog", "2", "cat", "2,", "dog", "2"],
        ["size", "64x64", "px", "64x64", "px"],
    ]
    assert report.splits[0].facts["duplicates"] == "0 exact, 0 near"


REFUSED = {
    "one class": ({"train/dog/0.png": None, "train/dog/1.png": None}, "all images are of one class"),
    "a class missing in test": ({"test/dog/0.png": None, "test/dog/1.png": None}, "test: no image has class 'dog'"),
    "a class that train lacks": ({"test/fox/0.png": b"x"}, "has classes that train lacks: fox"),
    "no image": ({"test/cat/0.png": b""}, r"test/cat/0\.png does not decode \(0 bytes\): it is empty"),
    "text for an image": ({"train/cat/0.png": b"<html>"}, r"train/cat/0\.png does not decode .6 bytes."),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_the_gate_refuses_what_evaluation_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    files, says = REFUSED[case]
    catalog = pets(tmp_path)
    for name, data in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if data is not None:
            path.write_bytes(data)
    if case == "one class":
        (tmp_path / "catalog.yaml").write_text(
            "pets: {format: imagefolder, train: train, test: test, classes: [cat, dog]}\n"
        )
    code, told = command(monkeypatch, capsys, "data", "check", "pets", "--catalog", catalog.path)
    assert code == 1
    assert re.search(says, told), told
    words = ("--checkpoint", "random:cifar_resnet20", "--data", "pets", "--set", "k=2", "--set", "also_k=[]")
    code, told = command(
        monkeypatch, capsys, "evaluate", "knn", "--catalog", catalog.path, *words, "--out", tmp_path / "out"
    )
    assert code == 2
    assert re.search(says, told), told


def test_links_that_lead_nowhere_and_loops_are_lines_of_the_report(tmp_path: Path) -> None:
    catalog = pets(tmp_path)
    (tmp_path / "train/cat/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "train/cat/self.png").symlink_to(tmp_path / "train/cat/self.png")
    (tmp_path / "train/dog/around").symlink_to(tmp_path / "train")
    report = check_set(catalog, "pets", open_images=True)
    assert [split.images for split in report.splits] == [6, 4]  # the report goes on
    assert len(report.problems) == 2
    assert "gone.png (a link that leads nowhere)" in report.problems[0]
    assert "self.png" in report.problems[1]
    assert report.splits[0].facts["left out"] == (
        "1 link loop are left out, such as dog/around; 2 links lead nowhere, such as cat/gone.png"
    )


def test_files_that_are_no_images_are_counted_and_told(tmp_path: Path) -> None:
    extra = {"train/cat/x.heic": b"x", "train/cat/y.HEIC": b"x", "train/dog/notes.txt": b"x", "train/dog/README": b"x"}
    hidden = {
        "train/.ipynb_checkpoints/0.png": b"x",
        "train/__MACOSX/cat/0.png": b"x",
        "train/@eaDir/0.png": b"x",
        "train/cat/._0.png": b"x",
        "train/cat/Thumbs.db": b"x",
    }
    report = check_set(pets(tmp_path, {**extra, **hidden, "train/cat/2.gif": saved(11, "GIF")}), "pets")
    assert report.ok
    assert report.splits[0].facts["images"] == "5"  # the GIF is read
    assert report.splits[0].facts["classes"] == "2"
    left_out = report.splits[0].facts["left out"]
    assert "2 .heic files are left out, such as cat/x.heic" in left_out
    assert "5 hidden or system are left out" in left_out
    assert "1 .txt files" in left_out
    assert "1 no suffix files" in left_out


def test_test_images_in_train_are_a_warning(tmp_path: Path) -> None:
    same, near = saved(0), saved(3, "JPEG", quality=60)  # train's cat 0, and its dog 1 saved anew
    report = check_set(pets(tmp_path, {"test/cat/7.png": same, "test/dog/7.jpg": near}), "pets", open_images=True)
    assert report.ok
    assert report.warnings == [
        f"1 of 6 images of test are in train as well, the same bytes, such as {tmp_path}/test/cat/7.png",
        f"1 of 6 images of test look nearly like one of train, such as {tmp_path}/test/dog/7.jpg and "
        f"{tmp_path}/train/dog/1.png",
    ]


def test_all_damaged_files_are_told_not_the_first(tmp_path: Path) -> None:
    cut = {f"train/cat/{n}.png": saved(0)[:-60] for n in range(10, 25)}
    report = check_set(pets(tmp_path, cut), "pets", open_images=True)
    assert sum("does not decode" in problem for problem in report.problems) == 10
    assert report.problems[-1] == "train: damaged: 5 more"
    assert report.splits[0].facts["damaged"] == "15"


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_near_hashes_are_found_as_by_comparing_all(data: st.DataObject) -> None:
    base = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=4))

    def some() -> np.ndarray:
        flips = st.lists(st.integers(0, 63), max_size=6)
        drawn = data.draw(st.lists(st.tuples(st.sampled_from(base), flips), max_size=12))
        return np.array([h ^ sum(1 << bit for bit in set(bits)) for h, bits in drawn], dtype=np.uint64)

    one, other = some(), some()
    distance = np.array([[(int(a) ^ int(b)).bit_count() for b in other] for a in one]).reshape(len(one), len(other))
    found = near_pairs(one, other)
    expected = np.flatnonzero((distance <= NEAR_BITS).any(axis=1)) if len(other) else []
    assert sorted(found[:, 0].tolist()) == list(expected)
    assert all(distance[a, b] == distance[a].min() for a, b in found.tolist())
    inside = near_inside(one)
    near = {i for i in range(len(one)) for j in range(i) if (int(one[i]) ^ int(one[j])).bit_count() <= NEAR_BITS}
    assert set(inside[:, 0].tolist()) == near
    assert all(j < i and (int(one[i]) ^ int(one[j])).bit_count() <= NEAR_BITS for i, j in inside.tolist())


def test_a_picture_saved_anew_keeps_its_hash_and_a_plain_one_has_none() -> None:
    first = perceptual_hash(PICTURES[0])
    assert first is not None
    smaller = np.asarray(Image.fromarray(PICTURES[0]).resize((40, 40), Image.Resampling.BICUBIC))
    assert (first ^ (perceptual_hash(smaller) or 0)).bit_count() <= NEAR_BITS
    assert (first ^ (perceptual_hash(PICTURES[1]) or 0)).bit_count() > 16
    assert perceptual_hash(np.full((20, 20, 3), 90, dtype=np.uint8)) is None


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_page_shows_each_class(tmp_path: Path, browser) -> None:
    catalog = pets(tmp_path, {"train/dog/9.png": saved(1)[:-60], "train/cat/<b>.png": saved(10)})
    page = tmp_path / "out" / "pets.html"
    check_set(catalog, "pets", page=page)
    browser.get(page.as_uri())
    assert browser.title == "pets: what the set holds"
    shown = [element.text for element in browser.find_elements("css selector", "section > b")]
    assert shown == ["cat", "dog", "cat", "dog"]
    widths = browser.execute_script("return [...document.images].map(i => [i.complete, i.naturalWidth])")
    assert len(widths) == 10
    assert all(width > 0 for _, width in widths)
    assert not browser.find_elements("css selector", "section b b")  # names are text
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = pets(tmp_path)
    scan = os.scandir

    def denied(place: bytes):
        if os.fsdecode(place).endswith("cat"):
            raise PermissionError(13, "Permission denied")
        return scan(place)

    monkeypatch.setattr(os, "scandir", denied)
    report = check_set(catalog, "pets")
    assert f"folder {tmp_path}/train/cat cannot be read: Permission denied" in report.problems[0]
