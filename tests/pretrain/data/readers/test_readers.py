"""Parquet, file lists, tar shards, torchvision's sets, VOC's labels, and listings that are kept."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import pretrain.data.listing as listing_module
import pretrain.data.readers.parquet as parquet_module
from pretrain.data.catalog import Catalog
from pretrain.data.listing import list_files
from pretrain.data.manifests import imagenet_classes
from pretrain.data.readers.filelist import PACKAGED, packaged_names
from pretrain.data.torchvision_facts import SETS
from pretrain.runtime.errors import InputError


def _png(value: int, size: int = 6) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def _catalog(folder: Path, text: str) -> Catalog:
    (folder / "catalog.yaml").write_text(text)
    return Catalog.load(folder / "catalog.yaml")


def _parquet(path: Path, values: list[int], group: int = 3) -> None:
    images = [{"bytes": _png(value), "path": f"{value}.png"} for value in values]
    table = pa.table({"image": images, "label": pa.array([value % 4 for value in values], pa.int64())})
    pq.write_table(table, path, row_group_size=group)


@pytest.mark.parametrize("in_memory", [True, False])
def test_parquet_gives_any_row_of_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool) -> None:
    monkeypatch.setattr(parquet_module, "IN_MEMORY_BYTES", 1 << 30 if in_memory else 0)
    monkeypatch.setenv("FASTMOCO_CACHE", str(tmp_path / "cache"))
    for part in range(2):
        _parquet(tmp_path / f"train-{part}.parquet", list(range(10 * part, 10 * part + 8)))
    catalog = _catalog(tmp_path, "p: {format: parquet, train: 'train-*.parquet', classes: 4}\n")
    images = pickle.loads(pickle.dumps(catalog.images("p", "train")))
    values = [*range(8), *range(10, 18)]
    for row in (15, 0, 8, 7, 2, 9):
        assert images.decode(row)[0, 0, 0] == values[row]
        assert images.labels[row] == values[row] % 4
    assert images.where(9) == f"{tmp_path}/train-1.parquet row 1"
    unpacked = list((tmp_path / "cache" / "parquet").rglob("*.bin")) if not in_memory else []
    # Rows 0 and 2, 7, 8 and 9, 15: four row groups of six were touched, and no more were unpacked.
    assert len(unpacked) == (0 if in_memory else 4)


def test_parquet_mistakes(tmp_path: Path) -> None:
    _parquet(tmp_path / "a.parquet", [1, 2, 3])
    with pytest.raises(InputError, match=r"unknown column of .*a.parquet 'img'.*; available: image, label"):
        _catalog(tmp_path, "p: {format: parquet, train: a.parquet, image_column: img}\n").images("p", "train")
    with pytest.raises(InputError, match="labels run from 1 to 3, expected 0 to 1"):
        _catalog(tmp_path, "p: {format: parquet, train: a.parquet, classes: 2}\n").images("p", "train")
    with pytest.raises(InputError, match=r"no file at .*b.parquet"):
        _catalog(tmp_path, "p: {format: parquet, train: b.parquet}\n").images("p", "train")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(InputError, match=r"c.parquet is no Parquet file"):
        _catalog(tmp_path, "p: {format: parquet, train: c.parquet}\n").images("p", "train")


@pytest.mark.real_data
def test_cifar10_as_parquet(real_data: Path) -> None:
    images = Catalog.load(real_data / "catalog.yaml").images("cifar10", "test")
    assert len(images) == 10_000
    assert images.classes[:3] == ("airplane", "automobile", "bird")
    assert np.bincount(images.labels).tolist() == [1000] * 10
    assert images.decode(9_999).shape == (32, 32, 3)


def test_the_packaged_lists_are_whole() -> None:
    sizes = {name: len(packaged_names(name)) for name in PACKAGED}
    assert sizes == {"imagenet:1percent": 12_811, "imagenet:10percent": 128_116}
    one, ten = (packaged_names(name) for name in PACKAGED)
    assert one[0] == "n04235860/n04235860_14959.JPEG"
    assert len({name.partition("/")[0] for name in ten}) == len(imagenet_classes()) == 1000
    assert imagenet_classes()[0] == "n01440764"
    with pytest.raises(InputError, match="available: imagenet:10percent, imagenet:1percent"):
        packaged_names("imagenet:2percent")


def test_file_lists(tmp_path: Path) -> None:
    for name in ("train/b/1.png", "train/a/2.png", "val/b/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(_png(int(Path(name).stem)))
    (tmp_path / "train.txt").write_text("b/1.png\na/2.png\n")
    (tmp_path / "val.txt").write_text("../val/b/3.png\n")
    (tmp_path / "numbers.txt").write_text("b/1.png 1\n\na/2.png 0\n")
    text = "f: {format: filelist, root: train, train: %s, val: val.txt}\n"
    catalog = _catalog(tmp_path, text % "train.txt")
    train, val = catalog.images("f", "train"), catalog.images("f", "val")
    assert (train.classes, train.labels.tolist(), val.labels.tolist()) == (("a", "b"), [1, 0], [1])
    assert [images.decode(0)[0, 0, 0] for images in (train, val)] == [1, 3]
    assert _catalog(tmp_path, text % "numbers.txt").images("f", "train").labels.tolist() == [1, 0]
    for content, says in (
        ("b/1.png 1\na/2.png\n", "list.txt:2: some lines end in a label and some do not"),
        ("1.png\n", "list.txt:1: expected 'CLASS/name.jpg'"),
        ("", "names no image"),
    ):
        (tmp_path / "list.txt").write_text(content)
        with pytest.raises(InputError, match=says):
            _catalog(tmp_path, text % "list.txt").images("f", "train")
    # The 1 % list over a folder without its images: it opens, and reading says which file is missing.
    one = _catalog(tmp_path, text % "imagenet:1percent").images("f", "train")
    assert (len(one), len(one.classes)) == (12_811, 1000)
    with pytest.raises(InputError, match=r"no image at .*train/n04235860/n04235860_14959.JPEG"):
        one.decode(0)


def _shard(path: Path, members: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_tar_shards(tmp_path: Path) -> None:
    for shard in range(2):
        members = {}
        for index in range(3):
            members |= {f"x/{shard}{index}.png": _png(10 * shard + index), f"x/{shard}{index}.cls": b"%d\n" % index}
        _shard(tmp_path / f"part-{shard:03d}.tar", members)
    catalog = _catalog(tmp_path, "t: {format: tar, train: 'part-{000..001}.tar', classes: 3}\n")
    for _ in range(2):  # the second time from the kept index
        images = catalog.images("t", "train")
        assert images.labels.tolist() == [0, 1, 2, 0, 1, 2]
        assert [int(images.decode(row)[0, 0, 0]) for row in (4, 0)] == [11, 0]
    assert images.where(4) == f"{tmp_path}/part-001.tar member x/11"
    _shard(tmp_path / "bad.tar", {"a.png": _png(0)})
    with pytest.raises(InputError, match=r"hold no labels .*bad.tar member a has no .cls.*not evaluated"):
        _catalog(tmp_path, "t: {format: tar, train: bad.tar}\n").images("t", "train")
    zipped = tmp_path / "zipped.tar.gz"
    _shard(zipped, {"a.png": _png(7), "a.cls": b"1"}, "w:gz")
    images = _catalog(tmp_path, "t: {format: tar, train: zipped.tar.gz}\n").images("t", "train")
    assert (images.decode(0)[0, 0, 0], images.labels.tolist(), images.where(0)) == (7, [1], f"{zipped} member a")
    cut = tmp_path / "cut.tgz"
    cut.write_bytes(zipped.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"cut.tgz is cut off"):
        _catalog(tmp_path, "t: {format: tar, train: cut.tgz}\n").images("t", "train")


def test_the_table_of_public_sets() -> None:
    # Kornblith et al. 2019, table 1: classes and test images (see the notes for what differs, and why).
    told = {name: (facts.classes, facts.test, facts.metric) for name, facts in SETS.items()}
    assert told == {
        "CIFAR10": (10, 10_000, "top1"),
        "CIFAR100": (100, 10_000, "top1"),
        "STL10": (10, 8_000, "top1"),
        "Food101": (101, 25_250, "top1"),
        "OxfordIIITPet": (37, 3_669, "mean_per_class"),
        "Flowers102": (102, 6_149, "mean_per_class"),
        "StanfordCars": (196, 8_041, "top1"),
        "FGVCAircraft": (100, 3_333, "mean_per_class"),
        "DTD": (47, 1_880, "top1"),
        "Caltech101": (101, 5_647, "mean_per_class"),
        "SUN397": (397, 19_850, "top1"),
        # VTAB and ELEVATER, and torchvision's own numbers for the last two.
        "EuroSAT": (10, 5_400, "top1"),
        "GTSRB": (43, 12_630, "top1"),
        "SVHN": (10, 26_032, "top1"),
        "Country211": (211, 21_100, "top1"),
        "FER2013": (7, 7_178, "top1"),
        "RenderedSST2": (2, 1_821, "top1"),
        "CLEVRClassification": (8, 15_000, "top1"),
        "Imagenette": (10, 0, "top1"),
        "INaturalist": (10_000, 0, "top1"),
    }
    assert SETS["DTD"].splits() == ("train", "val", "test")


def test_nothing_is_downloaded_unasked(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, "c: {format: torchvision, name: CIFAR10, root: data}\n")
    with pytest.raises(InputError, match="say `download: true` in the catalog"):
        catalog.images("c", "train")
    assert not (tmp_path / "data").exists()
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"CIFAR10 cannot be opened in .*data"):
        catalog.images("c", "train")


def test_a_torchvision_set_that_lacks_images_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "data" / "dtd" / "dtd"
    for folder in ("images/banded", "labels"):
        (base / folder).mkdir(parents=True)
    (base / "images/banded/banded_0001.jpg").write_bytes(_png(1))
    (base / "labels/train1.txt").write_text("banded/banded_0001.jpg\n")
    catalog = _catalog(tmp_path, "d: {format: torchvision, name: DTD, root: data}\n")
    with pytest.raises(InputError, match=r"DTD/train has 1 images of 1 classes in .*, expected 1880 of 47"):
        catalog.images("d", "train")


_XML = """<annotation><size><width>6</width><height>6</height><depth>3</depth></size>{}</annotation>"""
_OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>5</ymax>"
    "</bndbox></object>"
)


def test_voc_as_a_multi_label_set(tmp_path: Path) -> None:
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / "VOC2007" / folder).mkdir(parents=True)
    shown = {"a": [("cat", 0), ("dog", 1)], "b": [("dog", 1), ("dog", 0)], "c": []}
    for stem, objects in shown.items():
        (tmp_path / f"VOC2007/JPEGImages/{stem}.png").write_bytes(_png(5))
        xml = _XML.format("".join(_OBJECT.format(*item) for item in objects))
        (tmp_path / f"VOC2007/Annotations/{stem}.xml").write_text(xml)
    (tmp_path / "VOC2007/ImageSets/Main/train.txt").write_text("a\nb\nc\n")
    images = _catalog(tmp_path, "v: {format: voc, root: ., train: VOC2007/train, classes: [cat, dog]}\n").images(
        "v", "train"
    )
    assert images.multi_label
    assert images.labels.tolist() == [[True, False], [False, True], [False, False]]
    assert images.ignored is not None
    assert images.ignored.tolist() == [[False, True], [False, False], [False, False]]
    assert images.decode(1).shape == (6, 6, 3)


def test_a_listing_is_kept_until_a_folder_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing_module, "_CACHED_FROM", 1)
    monkeypatch.setenv("FASTMOCO_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "root"
    for name in ("b/x.jpg", "b/sub/y.JPG", "a/z.png", "a/notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"12")
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
        os.utime(folder, (1e9, 1e9))
    walks = []
    walk = listing_module._walk
    monkeypatch.setattr(listing_module, "_walk", lambda *given: walks.append(1) or walk(*given))
    names = [b"a/z.png", b"b/x.jpg", b"b/sub/y.JPG"]
    for _ in range(3):
        assert list_files(root, (".jpg", ".png")).names.tolist() == names
    assert len(walks) == 1
    (root / "b/sub/new.jpg").write_bytes(b"1")
    assert len(list_files(root, (".jpg", ".png")).names) == 4
    assert len(walks) == 2
    # A folder changed only now could change again within the clock's grain: its listing is not kept.
    list_files(root, (".jpg", ".png"))
    assert len(walks) == 3
