"""The generated set: the same for its seed, and nothing but form and texture tells the classes."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from pretrain.data.catalog import Catalog, ShapesEntry
from pretrain.data.generated.sets import image_rng
from pretrain.data.generated.shapes import CLASSES, Pose, draw_background, draw_shape
from pretrain.runtime.errors import InputError


def _catalog(**given: int) -> Catalog:
    return Catalog({"s": ShapesEntry(format="shapes", **{"size": 32, "train": 60, "test": 30, **given})})  # type: ignore[arg-type]


def test_an_image_depends_on_seed_split_and_number_alone() -> None:
    images = _catalog().images("s", "train")
    longer, other = _catalog(train=70).images("s", "train"), _catalog(seed=1).images("s", "train")
    assert images.labels.tolist() == [index % 10 for index in range(60)]
    assert (images.decode(13) == longer.decode(13)).all()
    assert (images.decode(13) == pickle.loads(pickle.dumps(images)).decode(13)).all()
    assert (images.decode(13) != other.decode(13)).any()
    assert (images.decode(13) != _catalog().images("s", "test").decode(13)).any()
    assert (np.array(Image.open(io.BytesIO(images.encoded(13)))) == images.decode(13)).all()
    assert "image 13" in images.where(13)


def test_the_pixels_are_those_of_version_1() -> None:
    # A change of any pixel must raise VERSION in shapes.py. Means, not hashes: the last bit may differ between CPUs.
    images = _catalog().images("s", "train")
    means = [round(float(images.decode(index).mean())) for index in range(5)]
    assert means == [119, 124, 139, 103, 117]


@pytest.mark.parametrize("class_index", range(10))
def test_every_outline_covers_about_the_same_area(class_index: int) -> None:
    rng = np.random.Generator(np.random.Philox(1))
    canvas = draw_background(200, 240, rng)
    before = canvas.copy()
    mask = draw_shape(canvas, class_index, Pose(x=120, y=100, radius=40, angle=0.7), rng)
    # The pixels on the outline count as inside, half of them too many: 6 % at this radius.
    assert mask.sum() == pytest.approx(1.06 * 2 * 40**2, rel=0.03)
    rows, columns = np.nonzero(mask)
    if CLASSES[class_index] != "crescent":  # its corners pull the centre of pixels a little off
        assert (columns.mean(), rows.mean()) == pytest.approx((120, 100), abs=1.5)
    outside = ~mask
    changed = (canvas != before).any(axis=2)
    assert changed[outside].mean() < 0.02  # the antialiased edge alone


def test_a_shape_at_the_border_is_cut_off() -> None:
    rng = np.random.Generator(np.random.Philox(1))
    canvas = draw_background(64, 64, rng)
    assert 0 < draw_shape(canvas, 0, Pose(0, 0, 20, 0.0), rng).sum() < 300
    assert draw_shape(canvas, 0, Pose(-100, 0, 20, 0.0), rng).sum() == 0


def test_colour_does_not_tell_the_class() -> None:
    # A nearest class mean on the mean and deviation of the colours: near chance, 10 %.
    images = _catalog(train=1000).images("s", "train")
    x = np.stack([np.concatenate([p.mean((0, 1)), p.std((0, 1))]) for p in map(images.decode, range(1000))])
    means = np.stack([x[:500][images.labels[:500] == k].mean(0) for k in range(10)])
    guess = (((x[500:, None] - means) / x.std(0)) ** 2).sum(2).argmin(1)
    assert (guess == images.labels[500:]).mean() < 0.2


def test_streams_of_images_do_not_meet() -> None:
    draws = {image_rng(0, split, index).random() for split in ("train", "test") for index in range(500)}
    assert len(draws) == 1000


def test_too_few_images_for_the_classes() -> None:
    with pytest.raises(InputError, match="5 images in test, expected one of each of 10 classes"):
        _catalog(test=5).images("s", "test")
