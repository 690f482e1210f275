"""Tar shards as WebDataset packs them: whole or refused, with every key, order and name."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from pretrain.data.catalog import Catalog
from pretrain.data.images import ImageSet
from pretrain.runtime.errors import InputError

IN_ONE_FOLDER = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (3, 2), value).save(stream, "PNG")
    return stream.getvalue()


def packed(members: list[tuple[str, bytes]], form: int = tarfile.USTAR_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def opened(folder: Path, data: bytes) -> ImageSet:
    (folder / "shard.tar").write_bytes(data)
    (folder / "catalog.yaml").write_text("t: {format: tar, train: shard.tar}\n")
    return Catalog.load(folder / "catalog.yaml").images("t", "train")


def samples(count: int) -> list[tuple[str, bytes]]:
    return [
        (f"{n:04d}.{kind}", png(n) if kind == "png" else b"%d" % n) for n in range(count) for kind in ("png", "cls")
    ]


def test_a_shard_cut_at_any_block_is_whole_or_refused(tmp_path: Path) -> None:
    """A shard cut between two members was read as a smaller one."""
    data = packed(samples(3))
    end = 3 * 4 * 512 + 1024  # six members of a header and one block each, and the end-of-archive mark
    for cut in range(0, len(data) + 1, 512):
        if cut >= end:
            assert opened(tmp_path, data[:cut]).labels.tolist() == [0, 1, 2]
            continue
        with pytest.raises(InputError, match=r"shard\.tar (is cut off: it ends|is no plain .*: empty file)"):
            opened(tmp_path, data[:cut])


def test_a_shard_damaged_in_its_middle_is_refused(tmp_path: Path) -> None:
    """tarfile takes a header that is none for the end."""
    data = bytearray(packed(samples(3)))
    data[4 * 512 : 4 * 512 + 100] = b"x" * 100
    with pytest.raises(InputError, match="is damaged: what stands at byte 2048 is neither a member nor the end"):
        opened(tmp_path, bytes(data))
    with pytest.raises(InputError, match="goes on behind its end-of-archive mark at byte 6144"):
        opened(tmp_path, packed(samples(3)) + packed(samples(2)))


KEYS = st.text(st.characters(codec="utf-8", exclude_characters="./\\\0", exclude_categories=("Cs", "Cc")), min_size=1)


@IN_ONE_FOLDER
@given(
    data=st.data(), keys=st.lists(KEYS.filter(lambda key: not key.startswith("@")), unique=True, min_size=1, max_size=5)
)
def test_any_names_in_any_order(tmp_path: Path, data: st.DataObject, keys: list[str]) -> None:
    members = [(f"a.b/{key[:40]}-{n}.PNG", png(n)) for n, key in enumerate(keys)]
    members += [(f"a.b/{key[:40]}-{n}.cls", b"%d\n" % n) for n, key in enumerate(keys)]
    order = data.draw(st.permutations(members))
    images = opened(tmp_path, packed(order, tarfile.PAX_FORMAT))
    assert sorted(images.labels.tolist()) == list(range(len(keys)))
    for row, label in enumerate(images.labels.tolist()):
        assert images.decode(row)[0, 0, 0] == label
        assert images.where(row).endswith(f"member a.b/{keys[label][:40]}-{label}")


@pytest.mark.parametrize(
    ("members", "says"),
    [
        # The key ends at the first dot: both names have the key "img", and neither field is an image.
        ([("img.1.png", png(0)), ("img.1.cls", b"0")], r"member img\.1\.png: a key ends at the first dot.*'1\.png'"),
        ([("img.1.png", png(0)), ("img.cls", b"0")], r"img\.1\.png: a key ends at the first dot.* .1 such members."),
        ([*samples(2), ("5.cls", b"1")], r"member 5\.cls: a label without an image .1 of 3 labels"),
        ([*samples(2), ("5.png", png(1))], r"member 5\.png: an image without a label; .* .1 of 3 images"),
        ([*samples(2), ("0000.jpg", png(1))], r"two images of one key: 0000\.png and 0000\.jpg"),
        ([*samples(2), ("0000.png", png(1))], r"member 0000\.png stands twice"),
        ([("0.png", png(0)), ("0.cls", b"a\nb")], r"member 0\.cls: expected a label, got"),
        ([], r"holds no image"),
    ],
)  # fmt: skip
def test_what_has_no_partner_or_two_is_counted_and_named(tmp_path: Path, members, says: str) -> None:
    with pytest.raises(InputError, match=says):
        opened(tmp_path, packed(members))


def test_other_fields_and_system_files_are_counted(tmp_path: Path) -> None:
    extra = [("0000.json", b"{}"), ("0001.json", b"{}"), ("0000.seg.png", png(0)), ("._0000.png", b"mac")]
    images = opened(tmp_path, packed([*samples(2), *extra, ("__MACOSX/0000.png", b"mac")]))
    assert images.labels.tolist() == [0, 1]
    assert images.notes == (
        "2 members '.json' are not read",
        "1 members '.seg.png' are not read",
        "2 members 'hidden or system' are not read",
    )


def test_a_hard_link_is_a_second_name_of_the_same_image(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in [*samples(1), ("0001.cls", b"1")]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("0001.png")
        link.type, link.linkname = tarfile.LNKTYPE, "0000.png"
        archive.addfile(link)
    images = opened(tmp_path, stream.getvalue())
    assert images.labels.tolist() == [0, 1]
    assert (images.decode(1) == images.decode(0)).all()
