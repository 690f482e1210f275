"""Identity follows content: a corrected file is another set, a moved copy is the same, and nothing is read twice."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.data import content
from pretrain.data.catalog import Catalog
from pretrain.data.content import contents, file_identity
from pretrain.runtime.errors import InputError


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """How many files each pass has read, with a cache of its own and files that count as settled at once."""
    counted: list[int] = []
    read = content._read
    monkeypatch.setattr(content, "_read", lambda *given: counted.append(len(given[2])) or read(*given))
    monkeypatch.setattr(content, "_SETTLED_NS", -1_000_000_000)
    monkeypatch.setenv("FASTMOCO_CACHE", str(tmp_path / "cache"))
    return counted


def bmp(path: Path, grey: int) -> Path:
    """Every image has the same size in bytes, whatever it shows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (grey,) * 3).save(path)
    return path


def small_set(root: Path) -> Catalog:
    for split in ("train", "test"):
        for number, label in enumerate("ab"):
            for index in range(3):
                bmp(root / split / label / f"{index}.bmp", 100 * number + index)
    (root / "list.txt").write_text("a/0.bmp\nb/0.bmp\nb/2.bmp\n")
    (root / "catalog.yaml").write_text(
        "folders: {format: imagefolder, train: train, test: test}\n"
        "listed: {format: filelist, root: train, train: list.txt, test: list.txt}\n"
    )
    return Catalog.load(root / "catalog.yaml")


def identities(catalog: Catalog, name: str) -> tuple[str, str, str]:
    """Of the run, of the features of all rows, and of those of two rows."""
    images = catalog.images(name, "train")
    return catalog.identity(name), images.identity, images.subset(np.array([0, 2])).identity


@pytest.mark.parametrize("name", ["folders", "listed"])
def test_an_image_corrected_in_place_makes_another_set(tmp_path: Path, reads: list[int], name: str) -> None:
    """The same name, size and time of writing; only the pixels differ."""
    catalog = small_set(tmp_path / "set")
    before = identities(catalog, name)
    path = tmp_path / "set/train/b/0.bmp"
    times = path.stat()
    bmp(path, 77)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size
    reads.clear()
    after = identities(catalog, name)
    assert all(now != then for now, then in zip(after, before, strict=True))
    assert sum(reads) == 1


@pytest.mark.parametrize("name", ["folders", "listed"])
def test_a_moved_copy_and_a_touched_file_are_the_same_set(tmp_path: Path, reads: list[int], name: str) -> None:
    before = identities(small_set(tmp_path / "set"), name)
    shutil.copytree(tmp_path / "set", tmp_path / "elsewhere")
    assert identities(Catalog.load(tmp_path / "elsewhere/catalog.yaml"), name) == before
    (tmp_path / "set/train/a/0.bmp").touch()
    assert identities(Catalog.load(tmp_path / "set/catalog.yaml"), name) == before
    (tmp_path / "set").rename(tmp_path / "renamed")
    assert identities(Catalog.load(tmp_path / "renamed/catalog.yaml"), name) == before


def test_files_are_read_once_and_again_when_they_change(tmp_path: Path, reads: list[int]) -> None:
    names = np.array([b"1.bmp", b"2.bmp", b"3.bmp"])
    for number, name in enumerate(names.tolist()):
        bmp(tmp_path / os.fsdecode(name), number)
    first = contents(tmp_path, names)
    assert (contents(tmp_path, names[::-1]).digests == first.digests[::-1]).all()
    assert reads == [3]  # other orders and parts ask for nothing new
    assert (contents(tmp_path, names[1:]).digests == first.digests[1:]).all()
    assert first.headers.tolist() == [[6, 4, 0]] * 3
    bmp(tmp_path / "4.bmp", 9)
    contents(tmp_path, np.array([b"4.bmp", b"1.bmp"]))
    bmp(tmp_path / "2.bmp", 50)
    changed = contents(tmp_path, np.array([*names, b"4.bmp"]))
    assert reads == [3, 1, 1]
    assert (changed.digests[:3] == first.digests).all(axis=1).tolist() == [True, False, True]
    (tmp_path / "2.bmp").unlink()
    gone = contents(tmp_path, names)
    assert gone.sizes.tolist()[1] == -1
    assert not gone.digests[1].any()
    assert reads == [3, 1, 1]


def test_a_file_read_in_the_moment_it_was_written_is_read_again(
    tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the clock's grain it could change again and show the same times."""
    monkeypatch.setattr(content, "_SETTLED_NS", 3_600_000_000_000)
    name = np.array([bmp(tmp_path / "1.bmp", 1).name.encode()])
    contents(tmp_path, name)
    contents(tmp_path, name)
    assert reads == [1, 1]


def test_a_large_file_counts_by_all_of_its_content(
    tmp_path: Path, reads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard changed in its middle was the same shard: only size and both ends were looked at."""
    monkeypatch.setattr(content, "_HEADER_UP_TO", 1000)
    path = tmp_path / "shard.tar"
    path.write_bytes(bytes(5000))
    before = file_identity(path)
    assert before == hashlib.sha256(bytes(5000)).hexdigest()
    with path.open("r+b") as stream:
        stream.seek(2500)
        stream.write(b"x")
    assert file_identity(path) != before
    with pytest.raises(InputError, match=r"^no file at .*gone\.tar$"):
        file_identity(tmp_path / "gone.tar")


def test_a_damaged_cache_is_made_again(tmp_path: Path, reads: list[int]) -> None:
    name = np.array([bmp(tmp_path / "1.bmp", 1).name.encode()])
    expected = contents(tmp_path, name).digests
    for kept in (tmp_path / "cache/contents").iterdir():
        kept.write_bytes(kept.read_bytes()[:100])
    assert (contents(tmp_path, name).digests == expected).all()
    assert reads == [1, 1]
