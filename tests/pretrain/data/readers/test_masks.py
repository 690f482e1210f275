"""Images with class masks: what is read, what it means, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.data.catalog import Catalog
from pretrain.data.readers.masks import IGNORE, MaskSet, check_masks, demand_every_class, voc_palette
from pretrain.runtime.errors import InputError


def save(path: Path, values: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> Callable[..., Catalog]:
    """folders(mask, entry="...") -> a catalog with the set `two` of two images, 4x6 pixels."""

    def make(mask: np.ndarray | None = None, *, entry: str = "classes: [a, b, c], ignore: 255", second: bool = True):
        for number in (1, 2):
            save(tmp_path / "images" / f"{number}.jpg", np.full((4, 6, 3), 40 * number, np.uint8))
        save(tmp_path / "masks" / "1.png", np.zeros((4, 6), np.uint8) if mask is None else mask)
        if second:
            save(tmp_path / "masks" / "2.png", np.full((4, 6), 2, np.uint8))
        catalog = tmp_path / "catalog.yaml"
        catalog.write_text(f"two: {{format: masks, train: {{images: images, masks: masks}}, {entry}}}\n")
        return Catalog.load(catalog)

    return make


def values(*rows: str) -> np.ndarray:
    return np.array([[int(value) for value in row.split()] for row in rows], np.uint8)


def test_values_are_classes_in_rising_order_without_the_ignored_one(folders: Callable[..., Catalog]):
    stored = np.zeros((4, 6), np.uint8)
    stored[0] = [0, 1, 2, 3, 1, 2]
    for ignore, expected in (
        (3, [0, 1, 2, IGNORE, 1, 2]),
        (0, [IGNORE, 0, 1, 2, 0, 1]),
        (1, [0, IGNORE, 1, 2, IGNORE, 1]),
    ):
        masks = folders(stored, entry=f"classes: [a, b, c], ignore: {ignore}").masks("two", "train")
        assert masks.mask(0)[0].tolist() == expected
        assert masks.mask(0).dtype == np.uint8


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_indices_are_read_from_any_single_channel_mode(folders: Callable[..., Catalog], mode: str, tmp_path: Path):
    masks = folders().masks("two", "train")
    stored = np.arange(24, dtype=np.uint8).reshape(4, 6) % 3
    image = Image.fromarray(stored)
    if mode == "P":
        image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    elif mode == "I;16":
        image = image.convert("I;16")
    image.save(tmp_path / "masks" / "1.png")
    assert np.array_equal(masks.mask(0), stored)


def test_one_pass_counts_pixels_and_is_kept_until_a_file_changes(
    folders: Callable[..., Catalog], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    stored = np.zeros((4, 6), np.uint8)
    stored[0] = 255
    stored[1, :2] = 1
    masks = folders(stored).masks("two", "train")
    found = check_masks(masks, tmp_path / "cache")
    assert (found.pixels, found.ignored, found.median_short_side) == ((16, 2, 24), 6, 4.0)
    assert found.majority_miou == pytest.approx(100 * 24 / 42 / 3)
    opened = []
    monkeypatch.setattr(MaskSet, "mask", lambda self, index: opened.append(index))
    assert check_masks(masks, tmp_path / "cache") == found
    assert not opened
    monkeypatch.undo()
    save(tmp_path / "masks" / "2.png", np.full((4, 6), 9, np.uint8))
    with pytest.raises(InputError, match=r"2\.png holds label 9"):
        check_masks(folders(stored, second=False).masks("two", "train"), tmp_path / "cache")


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (np.zeros((6, 4), np.uint8), r"1\.png is 4x6 pixels, but its image .*1\.jpg is 6x4"),
        (
            np.full((4, 6), 3, np.uint8),
            r"1\.png holds label 3, which is beyond the 3 classes of 'two' .*ignore value 255",
        ),
        (np.zeros((4, 6, 3), np.uint8), r"1\.png has mode RGB, expected one channel of class indices"),
    ],
)
def test_a_wrong_mask_is_named(folders: Callable[..., Catalog], tmp_path: Path, mask: np.ndarray, said: str):
    with pytest.raises(InputError, match=said):
        check_masks(folders(mask).masks("two", "train"), tmp_path / "cache")


def test_what_is_missing_or_damaged_is_named(folders: Callable[..., Catalog], tmp_path: Path):
    with pytest.raises(InputError, match=r"image .*2\.jpg has no mask at .*2\.png"):
        folders(second=False).masks("two", "train")
    catalog = folders()
    (tmp_path / "masks" / "1.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"mask .*1\.png cannot be read"):
        check_masks(catalog.masks("two", "train"), tmp_path / "cache")
    (tmp_path / "images" / "1.jpg").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"image .*1\.jpg does not decode"):
        catalog.masks("two", "train").image(0)
    ignored = folders(np.full((4, 6), 2, np.uint8), entry="classes: [a, b], ignore: 2")
    with pytest.raises(InputError, match=r"every pixel of data set 'two', split 'train', is ignored"):
        check_masks(ignored.masks("two", "train"), tmp_path / "cache")


def test_sets_without_masks_splits_or_folders_are_refused(folders: Callable[..., Catalog], tmp_path: Path):
    catalog = folders()
    with pytest.raises(InputError, match="'shapes' has format 'shapes', which holds no class masks"):
        catalog.masks("shapes", "train")
    with pytest.raises(InputError, match="unknown split of data set 'two' 'val'"):
        catalog.masks("two", "val")
    with pytest.raises(InputError, match="'two' has 1 classes; segmentation takes 2 to 254"):
        folders(entry="classes: [a]").masks("two", "train")
    with pytest.raises(InputError, match="3 classes but a palette of 1 colours"):
        folders(entry="classes: [a, b, c], palette: [[1, 2, 3]]").masks("two", "train")
    (tmp_path / "catalog.yaml").write_text(
        "x: {format: masks, test: {images: nowhere, masks: masks}, classes: [a, b]}\n"
    )
    with pytest.raises(InputError, match=r"data set 'x', split 'test': no folder at .*/nowhere"):
        Catalog.load(tmp_path / "catalog.yaml").masks("x", "test")


def test_suffixes_and_subfolders_pair_as_cityscapes_does(tmp_path: Path):
    for city in ("aachen", "ulm"):
        save(tmp_path / "img" / city / f"{city}_1_leftImg8bit.png", np.zeros((4, 6, 3), np.uint8))
        save(tmp_path / "img" / city / f"{city}_1_other.png", np.zeros((4, 6, 3), np.uint8))
        save(tmp_path / "gt" / city / f"{city}_1_gtFine_labelTrainIds.png", np.ones((4, 6), np.uint8))
        save(tmp_path / "gt" / city / f"{city}_1_gtFine_color.png", np.zeros((4, 6, 3), np.uint8))
    (tmp_path / "catalog.yaml").write_text(
        "city: {format: masks, train: {images: img, masks: gt}, classes: [road, sky], "
        "image_suffix: _leftImg8bit.png, mask_suffix: _gtFine_labelTrainIds.png}\n"
    )
    masks = Catalog.load(tmp_path / "catalog.yaml").masks("city", "train")
    assert [image.name for image, _ in masks.pairs] == ["aachen_1_leftImg8bit.png", "ulm_1_leftImg8bit.png"]
    assert masks.mask(1).tolist() == np.ones((4, 6), int).tolist()


def test_voc_layout_reads_segmentation_lists(tmp_path: Path):
    home = tmp_path / "VOCdevkit" / "VOC2012"
    for name, label in (("a", 1), ("b", 20)):
        save(home / "JPEGImages" / f"{name}.jpg", np.zeros((4, 6, 3), np.uint8))
        save(home / "SegmentationClass" / f"{name}.png", np.full((4, 6), label, np.uint8))
    lists = home / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b\n")
    (tmp_path / "catalog.yaml").write_text(
        "voc: {format: voc, root: VOCdevkit, train: [VOC2012/train], test: [VOC2012/val], val: [VOC2012/trainaug]}\n"
    )
    catalog = Catalog.load(tmp_path / "catalog.yaml")
    train, test = catalog.masks("voc", "train"), catalog.masks("voc", "test")
    assert (train.classes[0], train.classes[20], len(train.classes)) == ("background", "tvmonitor", 21)
    assert (train.mask(0).max(), test.mask(0).max()) == (1, 20)
    with pytest.raises(InputError, match=r"no list at .*Segmentation/trainaug\.txt, which segmentation needs"):
        catalog.masks("voc", "val")


def voc12aug(root: Path, extra: dict[str, int], lists: dict[str, list[str]]) -> Catalog:
    """VOC's own masks of `a` (1) and `b` (20), SBD's of `extra`, images of all."""
    home = root / "VOCdevkit" / "VOC2012"
    for name, label in (("a", 1), ("b", 20)):
        save(home / "SegmentationClass" / f"{name}.png", np.full((4, 6), label, np.uint8))
    for name, label in extra.items():
        save(home / "SegmentationClassAug" / f"{name}.png", np.full((4, 6), label, np.uint8))
    for name in {"a", "b", *extra}:
        save(home / "JPEGImages" / f"{name}.jpg", np.zeros((4, 6, 3), np.uint8))
    (home / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name, listed in lists.items():
        (home / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(listed) + "\n")
    train = "[VOC2012/train, VOC2012/aug]" if "aug" in lists else "[VOC2012/trainaug]"
    (root / "catalog.yaml").write_text(f"voc: {{format: voc, root: VOCdevkit, train: {train}, test: [VOC2012/val]}}\n")
    return Catalog.load(root / "catalog.yaml")


@pytest.mark.parametrize(
    ("extra", "lists"),
    [
        # mmsegmentation's: SBD's masks for the list `aug` alone.
        ({"c": 5}, {"train": ["a"], "aug": ["c"], "val": ["b"]}),
        # DeepLab's: masks for all images, SBD's of those that have VOC's own too.
        ({"a": 7, "b": 8, "c": 5}, {"trainaug": ["a", "c"], "val": ["b"]}),
    ],
)
def test_voc12aug_has_official_masks_where_voc_has_them(
    tmp_path: Path, extra: dict[str, int], lists: dict[str, list[str]]
):
    catalog = voc12aug(tmp_path, extra, lists)
    train, test = catalog.masks("voc", "train"), catalog.masks("voc", "test")
    assert [int(train.mask(index).max()) for index in range(2)] == [1, 5]
    assert test.mask(0).max() == 20


def test_images_to_measure_on_have_no_masks_of_sbd(tmp_path: Path):
    catalog = voc12aug(tmp_path, {"c": 5}, {"trainaug": ["a"], "val": ["b", "c"]})
    with pytest.raises(InputError, match=r"'c' of .*val\.txt has no mask of VOC's own"):
        catalog.masks("voc", "test")
    before = catalog.identity("voc")
    save(tmp_path / "VOCdevkit/VOC2012/SegmentationClassAug/d.png", np.full((4, 6), 9, np.uint8))
    assert catalog.identity("voc") != before


@pytest.mark.parametrize(
    ("stored", "entry", "expected"),
    [
        ([0, 255, 255, 0, 0, 0], "classes: [ground, thing], values: [0, 255]", [0, 1, 1, 0, 0, 0]),
        ([0, 255, 7, 0, 0, 0], "classes: [ground, thing], values: [255, 0], ignore: 7", [1, 0, IGNORE, 1, 1, 1]),
        # Sparse: some of 200 ids, two of which are one class.
        (
            [3, 17, 200, 18, 0, 255],
            "classes: [road, car, sky], values: {3: road, 17: car, 18: car, 200: 2, 0: null}",
            [0, 1, 2, 1, IGNORE, IGNORE],
        ),
    ],
)
def test_values_say_what_stands_for_which_class(
    folders: Callable[..., Catalog], stored: list[int], entry: str, expected: list[int]
):
    plain = np.zeros((4, 6), np.uint8)
    plain[:] = stored
    masks = folders(plain, entry=entry).masks("two", "train")
    assert masks.mask(0)[0].tolist() == expected


@pytest.mark.parametrize("mode", ["RGB", "P"])
@pytest.mark.parametrize(
    "said",
    [
        'values: ["#000000", [128, 64, 128]], ignore: "#ffffff"',
        'values: {"0 0 0": sky, "#804080": road, "255, 255, 255": null}',
        "values: table.csv",
    ],
)
def test_colours_are_looked_up(folders: Callable[..., Catalog], tmp_path: Path, mode: str, said: str):
    (tmp_path / "table.csv").write_text("name,r,g,b\nsky,0,0,0\nroad,128,64,128\nVoid,255,255,255\n")
    plain = np.zeros((4, 6, 3), np.uint8)
    plain[0, 1], plain[0, 2] = (128, 64, 128), (255, 255, 255)
    catalog = folders(plain, entry=f"classes: [sky, road], {said}")
    if mode == "P":
        Image.fromarray(plain).quantize(3).save(tmp_path / "masks" / "1.png")
    masks = catalog.masks("two", "train")
    assert masks.mask(0)[0].tolist() == [0, 1, IGNORE, 0, 0, 0]
    plain[0, 3] = (1, 2, 3)
    Image.fromarray(plain).save(tmp_path / "masks" / "1.png")
    with pytest.raises(InputError, match=r"1\.png holds #010203, which `values` of 'two' does not explain \(1 pixel\)"):
        masks.mask(0)


def test_values_beyond_a_byte(folders: Callable[..., Catalog], tmp_path: Path):
    masks = folders(entry="classes: [a, b, c], values: [1000, 2, 300]").masks("two", "train")
    deep = np.full((4, 6), 1000, np.uint16)
    deep[0, 0] = 300
    Image.fromarray(deep).save(tmp_path / "masks" / "1.png")
    assert masks.mask(0)[0, :2].tolist() == [2, 0]
    assert masks.mask(1).max() == 1


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("values: [0]", "2 classes but 1 `values`"),
        ("values: {0: a}", "no value for class 'b'"),
        ("values: {0: a, 1: c}", "unknown class in `values`"),
        ("values: [0, [1, 2, 3]]", "mixes numbers and colours"),
        ("values: [5, 5]", "holds 5 twice"),
        ("values: [0, 70000]", "70000 is no value of a mask"),
        ("values: nowhere.txt", "nowhere.txt cannot be read"),
    ],
)
def test_values_that_say_nothing_are_refused(folders: Callable[..., Catalog], said: str, told: str):
    with pytest.raises(InputError, match=told):
        folders(entry=f"classes: [a, b], {said}").masks("two", "train")


def test_a_table_changes_what_the_set_is(folders: Callable[..., Catalog], tmp_path: Path):
    table = tmp_path / "table.txt"
    identities = []
    for text in ("0 a\n2 b\n", "2 a\n0 b\n"):
        table.write_text(text)
        catalog = folders(entry="classes: [a, b], values: table.txt")
        identities += [catalog.identity("two"), catalog.masks("two", "train").identity]
    assert len(set(identities)) == 4


def test_a_class_that_never_occurs_is_refused(folders: Callable[..., Catalog], tmp_path: Path):
    """Masks of 0 and 255 with two classes: 255 was ignored, and mIoU was 100 %."""
    stored = np.zeros((4, 6), np.uint8)
    stored[1] = 255
    catalog = folders(stored, entry="classes: [ground, thing]", second=False)
    save(tmp_path / "masks" / "2.png", stored)
    masks = catalog.masks("two", "train")
    with pytest.raises(
        InputError, match=r"class 'thing' never occurs, no mask holds 1; the masks hold 0 \(ground\), 255"
    ):
        demand_every_class(masks, check_masks(masks, tmp_path / "cache"))


def test_images_that_would_count_twice_are_named(folders: Callable[..., Catalog], tmp_path: Path):
    catalog = folders()
    save(tmp_path / "images" / "1.png", np.zeros((4, 6, 3), np.uint8))
    with pytest.raises(InputError, match=r"1\.jpg and .*1\.png share one mask and would count twice"):
        catalog.masks("two", "train")
    voc = voc12aug(tmp_path / "voc", {}, {"trainaug": ["a", "b", "a"], "val": ["b"]})
    with pytest.raises(InputError, match=r"trainaug\.txt:3: 'a' stands in line 1 already"):
        voc.masks("voc", "train")


def test_other_suffixes_work_and_what_is_no_image_is_counted(
    folders: Callable[..., Catalog], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    catalog = folders()
    save(tmp_path / "images" / "a b.tif", np.zeros((4, 6, 3), np.uint8))
    save(tmp_path / "masks" / "a b.tif", np.full((4, 6), 1, np.uint8))
    (tmp_path / "images" / "notes.txt").write_text("")
    masks = catalog.masks("two", "train")
    assert (len(masks), masks.mask(2).max(), masks.image(2).shape) == (3, 1, (4, 6, 3))
    assert "1 files in" in caplog.text
    assert "1 '.txt'" in caplog.text


def test_palette_is_the_devkits():
    colours = voc_palette(21)
    assert colours[:5] == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
    assert colours[20] == (0, 64, 128)
    assert len(set(voc_palette(254))) == 254


@pytest.mark.real_data
def test_camvid_is_what_its_readme_says(real_data: Path, tmp_path: Path):
    catalog = Catalog.load(real_data / "catalog.yaml")
    assert [len(catalog.masks("camvid", split)) for split in ("train", "val", "test")] == [367, 101, 233]
    found = check_masks(catalog.masks("camvid", "test"), tmp_path)
    assert sum(found.pixels) + found.ignored == 233 * 480 * 360
    assert (len(found.pixels), min(found.pixels) > 0, found.median_short_side) == (11, True, 360)
