"""Images with class masks: what is read, what it means, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.data.catalog import Catalog
from pretrain.data.readers.masks import IGNORE, MaskSet, check_masks, voc_palette
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


def test_voc_layout_reads_segmentation_lists_and_prefers_the_augmented_masks(tmp_path: Path):
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
    save(home / "SegmentationClassAug" / "a.png", np.full((4, 6), 255, np.uint8))
    assert catalog.masks("voc", "train").mask(0).max() == IGNORE


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
