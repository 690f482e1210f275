"""Labels go by name: for every shard, split and the catalog, and what cannot be matched is refused with both orders."""

from __future__ import annotations

import io
import json
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pretrain.data.catalog import Catalog
from pretrain.data.classes import matched
from pretrain.runtime.errors import InputError


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (3, 2), value).save(stream, "PNG")
    return stream.getvalue()


def shard(path: Path, animals: list[str], names: list[str] | None) -> None:
    """A Parquet file that shows `animals` (each as a grey of its own), its labels counting in `names`."""
    greys = {"cat": 10, "dog": 20, "eel": 30}
    count_in = names or ["cat", "dog", "eel"]
    table = pa.table(
        {
            "image": [{"bytes": png(greys[animal]), "path": "x.png"} for animal in animals],
            "label": pa.array([count_in.index(animal) for animal in animals], pa.int64()),
        }
    )
    if names is not None:
        feature = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(feature)})
    pq.write_table(table, path)


def shown(catalog: Catalog, split: str) -> list[tuple[str, int]]:
    """(class name by the label, grey of the picture) of each row."""
    images = catalog.images("p", split)
    return [(images.classes[images.labels[row]], int(images.decode(row)[0, 0, 0])) for row in range(len(images))]


TRUE = [("cat", 10), ("dog", 20), ("eel", 30)]


@pytest.mark.parametrize("given_classes", ["", ", classes: 3", ", classes: [eel, cat, dog]"])
@pytest.mark.parametrize("orders", [("cde", "dce", "edc"), ("ecd", "ced", "cde")])
def test_shards_and_splits_of_other_orders_are_matched_by_name(
    tmp_path: Path, orders: tuple[str, ...], given_classes: str
) -> None:
    """A second shard's or a test split's own order was read by the first shard's names."""
    names = [[{"c": "cat", "d": "dog", "e": "eel"}[letter] for letter in order] for order in orders]
    for name, order in zip(("train-0", "train-1", "test-0"), names, strict=True):
        shard(tmp_path / f"{name}.parquet", ["cat", "dog", "eel"], order)
    (tmp_path / "c.yaml").write_text(
        f"p: {{format: parquet, train: 'train-*.parquet', test: 'test-*.parquet'{given_classes}}}\n"
    )
    catalog = Catalog.load(tmp_path / "c.yaml")
    assert shown(catalog, "train") == [*TRUE, *TRUE]
    assert shown(catalog, "test") == TRUE
    assert catalog.images("p", "train").classes == catalog.images("p", "test").classes


@pytest.mark.parametrize(
    ("names", "more", "says"),
    [
        (["cat", "dog", "fox"], "", "test.parquet has the classes cat, dog, fox, .*train.parquet has cat, dog, eel"),
        (["cat", "dog", "eel", "fox"], "", "has the classes cat, dog, eel, fox, .* has cat, dog, eel"),
        (["cat", "cat", "eel"], "", "test.parquet name the class 'cat' twice"),
        (None, "", "test.parquet does not name its classes, .*train.parquet does: cat, dog, eel"),
        (["cat", "dog", "eel"], ", classes: [a, b, c]", "has the classes cat, dog, eel, `classes` .* has a, b, c"),
        (["cat", "dog", "eel"], ", classes: [a, b, a]", "`classes` of the catalog name the class 'a' twice"),
    ],
)  # fmt: skip
def test_what_cannot_be_matched_is_refused_with_both_orders(
    tmp_path: Path, names: list[str] | None, more: str, says: str
) -> None:
    shard(tmp_path / "train.parquet", ["cat", "dog", "eel"], ["cat", "dog", "eel"])
    shard(tmp_path / "test.parquet", ["cat"], names)
    (tmp_path / "c.yaml").write_text(f"p: {{format: parquet, train: train.parquet, test: test.parquet{more}}}\n")
    with pytest.raises(InputError, match=says):
        Catalog.load(tmp_path / "c.yaml").images("p", "test")


@settings(deadline=None)
@given(st.data(), st.lists(st.text(min_size=1), unique_by=lambda t: unicodedata.normalize("NFC", t), min_size=1))
def test_matching_keeps_every_labels_name(data: st.DataObject, names: list[str]) -> None:
    wanted = data.draw(st.permutations(names))
    labels = np.array(data.draw(st.lists(st.integers(0, len(names) - 1))), dtype=np.int64)
    found = matched(labels, names, wanted, "here", "there")
    assert [wanted[label] for label in found] == [names[label] for label in labels]


def test_names_that_look_alike_are_told_apart(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    for split, label in (("train", composed), ("test", decomposed)):
        for name in (label, "b"):
            (tmp_path / split / name).mkdir(parents=True)
            (tmp_path / split / name / "0.png").write_bytes(png(3))
    (tmp_path / "c.yaml").write_text("f: {format: imagefolder, train: train, test: test}\n")
    with pytest.raises(InputError, match="they look alike but are written composed .NFC. and decomposed .NFD."):
        Catalog.load(tmp_path / "c.yaml").images("f", "test")
    (tmp_path / "train" / decomposed).mkdir()
    (tmp_path / "train" / decomposed / "0.png").write_bytes(png(3))
    with pytest.raises(InputError, match="two classes that look alike: .* is written composed"):
        Catalog.load(tmp_path / "c.yaml").images("f", "train")


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("[cat, no]", r"YAML reads it as true or false \(False\): put it in quotes"),
        ("[cat, 1]", r"YAML reads it as a number or a date \(1\)"),
        ("[cat, 1e3]", None),
        ("[cat, 1.5]", r"YAML reads it as a number or a date \(1\.5\)"),
        ("[cat, ~]", r"YAML reads it as nothing"),
        ("[cat, 'no', '1']", None),
    ],
)
@pytest.mark.parametrize("form", ["imagefolder, train: a", "tar, train: a", "voc, root: a, train: b/c"])
def test_names_that_yaml_reads_otherwise_are_told(tmp_path: Path, written: str, says: str | None, form: str) -> None:
    (tmp_path / "c.yaml").write_text(f"\nf: {{format: {form}, classes: {written}}}\n")
    if says is None:
        assert len(Catalog.load(tmp_path / "c.yaml").entry("f").classes) >= 2  # type: ignore[union-attr,arg-type]
        return
    with pytest.raises(InputError, match=rf"c\.yaml:2: .*{says}"):
        Catalog.load(tmp_path / "c.yaml")
