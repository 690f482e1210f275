"""Scenes: a VOC tree whose boxes, masks and names agree, the same on each machine and for each process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pretrain.data.catalog import Catalog, ScenesEntry
from pretrain.data.generated.scenes import CLASSES, MOST_OBJECTS, draw_scene, materialise_scenes
from pretrain.data.generated.sets import image_rng

ENTRY = ScenesEntry(format="shapes-scenes", size=96, train=12, test=4, seed=5)


@pytest.fixture
def catalog() -> Catalog:
    return Catalog({"small": ENTRY})


def test_the_tree_holds_what_was_drawn(catalog: Catalog) -> None:
    objects = catalog.objects("small", "train")
    assert (len(objects), objects.classes, objects.has_masks) == (12, CLASSES, True)
    for image in objects.images:
        assert 1 <= len(image.objects) <= MOST_OBJECTS
        assert image.instances is not None
        instances = np.array(Image.open(image.instances))
        classes = np.array(Image.open(image.instances.parent.parent / "SegmentationClass" / image.instances.name))
        assert instances.shape == classes.shape == (96, 96)
        assert ((instances > 0) == (classes > 0)).all()
        for thing in image.objects:
            rows, columns = np.nonzero(instances == thing.instance)
            assert thing.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert (classes[rows, columns] == thing.category + 1).all()


def test_a_scene_is_a_function_of_its_numbers() -> None:
    first, again, other = (draw_scene(96, image_rng(seed, "train", 3)) for seed in (1, 1, 2))
    assert (first.image == again.image).all()
    assert (first.instances == again.instances).all()
    assert first.categories == again.categories
    assert (first.image != other.image).any()


def test_most_of_each_shape_is_seen() -> None:
    for index in range(40):
        scene = draw_scene(128, image_rng(0, "test", index))
        areas = np.bincount(scene.instances.ravel(), minlength=len(scene.categories) + 1)[1:]
        # The smallest shape has 2 * (0.09 * 128)**2 = 265 pixels, of which 60 % are seen.
        assert areas.min() > 0.55 * 265


def test_all_classes_come() -> None:
    seen = {kind for index in range(60) for kind in draw_scene(64, image_rng(0, "train", index)).categories}
    assert seen == set(range(len(CLASSES)))


def test_many_processes_get_one_tree(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from pretrain.data.entries import ScenesEntry; "
        "from pretrain.data.generated.scenes import materialise_scenes; "
        "print(materialise_scenes(ScenesEntry.model_validate_json(sys.argv[1]), Path(sys.argv[2])))"
    )
    command = [sys.executable, "-c", code, ENTRY.model_dump_json(), str(tmp_path)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    folders = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert len(folders) == 1
    folder = Path(folders.pop())
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == [folder.name]
    assert len(list((folder / "JPEGImages").iterdir())) == 16
    stamp = folder.stat().st_mtime_ns
    assert materialise_scenes(ENTRY, tmp_path) == folder
    assert folder.stat().st_mtime_ns == stamp


def test_other_numbers_have_another_folder(tmp_path: Path) -> None:
    folders = {materialise_scenes(ENTRY.model_copy(update={"seed": seed}), tmp_path) for seed in (5, 6)}
    assert len(folders) == 2
