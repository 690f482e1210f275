"""Labels as people write them in lists, shards and Parquet: encodings, separators, headers, names, several an image."""

from __future__ import annotations

import io
import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pretrain.data.catalog import Catalog
from pretrain.runtime.errors import InputError


def _png(row: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), 20 * row, dtype=np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def listed(tmp_path: Path):
    """`listed(content, name, **entry)`: images 0..2 of a list (`train`), and the same list as `test`."""

    def make(content: str | bytes, name: str = "l.txt", more: str = "", names: tuple[str, ...] = ()):
        for row, image in enumerate(names or ("a/0.png", "a/1.png", "b c/2 x.png")):
            path = tmp_path / "d" / image
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_png(row))
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        (tmp_path / "catalog.yaml").write_text(f"l: {{format: filelist, root: d, train: {name}, test: {name}{more}}}\n")
        return Catalog.load(tmp_path / "catalog.yaml").images("l", "train")

    return make


CAT_DOG = "a/0.png{0}cat\na/1.png{0}dog\nb c/2 x.png{0}cat\n"


@pytest.mark.parametrize(
    "content",
    [
        CAT_DOG.format(" "),
        CAT_DOG.format("\t"),
        CAT_DOG.format(","),
        CAT_DOG.format(", "),
        CAT_DOG.format(";"),
        CAT_DOG.format(" ").replace("\n", "\r\n"),
        "\ufeff" + CAT_DOG.format(" "),
        CAT_DOG.format("\t").encode("utf-16"),
        CAT_DOG.format(",").encode("utf-16-le"),
        CAT_DOG.format(",").encode("utf-16-be"),
        "filename,label\n" + CAT_DOG.format(","),
        "Label\tPath\ncat\ta/0.png\ndog\ta/1.png\ncat\tb c/2 x.png\n",
        'image,extra,class\n"a/0.png",1,cat\n"a/1.png",2,dog\n"b c/2 x.png",3,"cat"\n',
    ],
)
def test_one_name_an_image(listed, content: str | bytes) -> None:
    images = listed(content)
    assert (images.classes, images.labels.tolist()) == (("cat", "dog"), [0, 1, 0])
    assert [int(images.decode(row)[0, 0, 0]) for row in range(3)] == [0, 20, 40]


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ('[{"file_name": "a/0.png", "label": "cat"}, {"file_name": "a/1.png", "label": "dog"}]', "l.json"),
        ('{"a/0.png": "cat", "a/1.png": "dog"}', "l.json"),
        ('{"image": "a/0.png", "class": "cat"}\n{"image": "a/1.png", "class": "dog"}\n', "l.jsonl"),
    ],
)
def test_json_lists(listed, content: str, name: str) -> None:
    images = listed(content, name)
    assert (images.classes, images.labels.tolist()) == (("cat", "dog"), [0, 1])


def test_a_list_in_parquet_and_the_order_of_the_catalog(listed, tmp_path: Path) -> None:
    stream = io.BytesIO()
    pq.write_table(pa.table({"path": ["a/0.png", "a/1.png"], "label": ["cat", "dog"]}), stream)
    images = listed(stream.getvalue(), "l.parquet", ", classes: [dog, cat]")
    assert (images.classes, images.labels.tolist()) == (("dog", "cat"), [1, 0])


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("a/0.png 0 2\na/1.png 1\nb c/2 x.png 0\n", "l.txt"),
        ("a/0.png,0|2\na/1.png,1\nb c/2 x.png,0\n", "l.csv"),
        ("path,labels\na/0.png,0;2\na/1.png,1\nb c/2 x.png,0\n", "l.csv"),
        ("a/0.png,0,2\na/1.png,1\nb c/2 x.png,0\n", "l.csv"),
        ('{"a/0.png": [0, 2], "a/1.png": [1], "b c/2 x.png": [0]}', "l.json"),
    ],
)
def test_several_labels_an_image(listed, content: str, name: str) -> None:
    images = listed(content, name)
    assert images.multi_label
    assert images.labels.astype(int).tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_a_column_for_each_class(listed) -> None:
    images = listed("path,cat,dog\na/0.png,1,1\na/1.png,0,1\nb c/2 x.png,0,0\n", "l.csv")
    assert images.classes == ("cat", "dog")
    assert images.labels.astype(int).tolist() == [[1, 1], [0, 1], [0, 0]]


def test_latin_1_is_said_and_read(listed, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fastmoco"):
        images = listed("é.png café\nb.png thé\n".encode("latin-1"), names=("é.png", "b.png"))
    assert images.classes == ("café", "thé")
    assert images.decode(0).max() == 0
    assert "l.txt:1: not UTF-8 (byte 0xe9): the list is read as Latin-1" in caplog.text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a/0.png cat\na/1.png\n", r"l.txt:2: some lines end in a label and some do not"),
        ("a/0.png cat\na/1.png 1\n", r"l.txt:1 has the label 'cat', others have numbers"),
        ("a/0.png 1 1\na/1.png 0\n", r"l.txt:1 has the label '1' twice.*needs a header"),
        ("path,label\na/0.png,cat,3\n", r"l.txt:2: 3 columns, the header has 2"),
        (bytes(range(256)), r"is no text"),
        ("", r"names no image"),
    ],
)
def test_what_is_no_list(listed, content: str | bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        listed(content)


def test_another_split_has_the_classes_of_train(listed, tmp_path: Path) -> None:
    listed("a/0.png cat\na/1.png dog\n")
    (tmp_path / "t.txt").write_text("b c/2 x.png dog\n")
    path = tmp_path / "catalog.yaml"
    path.write_text("l: {format: filelist, root: d, train: l.txt, test: t.txt}\n")
    assert Catalog.load(path).images("l", "test").labels.tolist() == [1]
    (tmp_path / "t.txt").write_text("b c/2 x.png cow\n")
    with pytest.raises(InputError, match=r"1 classes are not among those of train: cow"):
        Catalog.load(path).images("l", "test")


def _shard(path: Path, fields: list[dict[str, bytes]]) -> None:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
        for row, members in enumerate(fields):
            for field, data in {"png": _png(row), **members}.items():
                info = tarfile.TarInfo(f"{row}.{field}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize(
    ("fields", "more"),
    [
        ([{"cls": b"dog"}, {"cls": b"cat"}], ""),
        ([{"json": b'{"label": "dog"}'}, {"json": b'{"label": "cat"}'}], ""),
        ([{"json": b'{"my": "dog", "label": 7}'}, {"json": b'{"my": "cat", "label": 8}'}], ", label_field: 'json:my'"),
        ([{"txt": b"dog\n"}, {"txt": b"cat"}], ", label_field: txt"),
        ([{"txt": b"dog\n"}, {"txt": b"cat"}], ", classes: [cat, dog]"),
        ([{"cls": b"dog", "json": b"{broken", "txt": b"a caption"}, {"cls": b"cat"}], ""),
    ],
)
@pytest.mark.parametrize("name", ["s.tar", "s.tar.gz"])
def test_shards(tmp_path: Path, fields: list[dict[str, bytes]], more: str, name: str) -> None:
    _shard(tmp_path / name, fields)
    (tmp_path / "catalog.yaml").write_text(f"s: {{format: tar, train: {name}{more}}}\n")
    for _ in range(2):  # the second time from the cache
        images = Catalog.load(tmp_path / "catalog.yaml").images("s", "train")
        assert (images.classes, images.labels.tolist()) == (("cat", "dog"), [1, 0])
        assert int(images.decode(1)[0, 0, 0]) == 20


def test_shards_with_several_labels_an_image(tmp_path: Path) -> None:
    _shard(tmp_path / "s.tar", [{"json": b'{"labels": ["b", "c"]}'}, {"json": b'{"labels": []}'}, {"json": b'["a"]'}])
    (tmp_path / "catalog.yaml").write_text("s: {format: tar, train: s.tar}\n")
    images = Catalog.load(tmp_path / "catalog.yaml").images("s", "train")
    assert images.labels.astype(int).tolist() == [[0, 1, 1], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["dog", "cat", "dog"], [1, 0, 1]),
        (pa.array(["dog", "cat", "dog"]).dictionary_encode(), [1, 0, 1]),
        ([["dog", "cat"], [], ["dog"]], [[1, 1], [0, 0], [0, 1]]),
        ([[1, 0], [], [1]], [[1, 1], [0, 0], [0, 1]]),
    ],
)
def test_parquet(tmp_path: Path, labels: Any, expected: list[Any]) -> None:
    images = [{"bytes": _png(row), "path": ""} for row in range(3)]
    pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "p.parquet")
    (tmp_path / "catalog.yaml").write_text("p: {format: parquet, train: p.parquet, test: p.parquet}\n")
    for split in ("train", "test"):
        found = Catalog.load(tmp_path / "catalog.yaml").images("p", split)
        assert found.labels.astype(int).tolist() == expected


def test_parquet_lists_of_named_labels(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": _png(0), "path": ""}], "label": [[1]]})
    feature = {"feature": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "_type": "Sequence"}
    said = json.dumps({"info": {"features": {"label": feature}}}).encode()
    pq.write_table(table.replace_schema_metadata({b"huggingface": said}), tmp_path / "p.parquet")
    (tmp_path / "catalog.yaml").write_text("p: {format: parquet, train: p.parquet, classes: [cat, dog]}\n")
    found = Catalog.load(tmp_path / "catalog.yaml").images("p", "train")
    assert (found.classes, found.labels.tolist()) == (("cat", "dog"), [[False, True]])
