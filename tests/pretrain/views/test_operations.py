"""Each operation and whole views against PIL's and torchvision's, on the processor and on a device."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import pretrain.views.operations as ops
from pretrain.data.catalog import Catalog, ShapesEntry
from pretrain.data.images import ImageSet
from pretrain.views.draws import ViewDraw, draw_view, uniforms
from pretrain.views.on_device import DeviceViews
from pretrain.views.on_device import augment as augment_on_device
from pretrain.views.settings import BYOL, MOCO_V2, VIEWS, ViewsSpec
from pretrain.views.two_views import TwoViews, augment, two_view_loader

SMALL = MOCO_V2.model_copy(update={"size": 24})


@pytest.fixture(scope="session")
def photographs(request: pytest.FixtureRequest) -> list[np.ndarray]:
    """200 real images, uint8 (H, W, 3); drawn ones where there are no real ones."""
    try:
        real_data = request.getfixturevalue("real_data")
    except pytest.skip.Exception:
        images = Catalog({"s": ShapesEntry(format="shapes", size=160, train=200)}).images("s", "train")
        return [images.decode(index) for index in range(200)]
    catalog = Catalog.load(real_data / "catalog.yaml")
    vegetables, cifar10 = catalog.images("vegetables", "test"), catalog.images("cifar10", "test")
    return [
        *(vegetables.decode(index) for index in range(0, 587, 6)),
        *(cifar10.decode(index) for index in range(102)),
    ]


def _pil(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image)


def _shapes(count: int = 50, size: int = 32) -> ImageSet:
    return Catalog({"s": ShapesEntry(format="shapes", size=size, train=count)}).images("s", "train")


PEERS = {
    "brightness": (lambda x, u: ops.brightness(x, 0.6 + 0.8 * u), lambda x, u: F.adjust_brightness(x, 0.6 + 0.8 * u)),
    "contrast": (lambda x, u: ops.contrast(x, 0.6 + 0.8 * u), lambda x, u: F.adjust_contrast(x, 0.6 + 0.8 * u)),
    "saturation": (lambda x, u: ops.saturation(x, 0.6 + 0.8 * u), lambda x, u: F.adjust_saturation(x, 0.6 + 0.8 * u)),
    "hue": (lambda x, u: ops.hue(x, 0.2 * u - 0.1), lambda x, u: F.adjust_hue(x, 0.2 * u - 0.1)),
    "grayscale": (lambda x, u: ops.grayscale(x), lambda x, u: F.rgb_to_grayscale(x, 3)),
    "blur": (
        lambda x, u: ops.blur(x, 0.1 + 1.9 * u),
        lambda x, u: x.filter(ImageFilter.GaussianBlur(radius=0.1 + 1.9 * u)),
    ),
    "solarize": (lambda x, u: ops.solarize(x), lambda x, u: ImageOps.solarize(x)),
    "flip": (lambda x, u: ops.flip(x), lambda x, u: F.horizontal_flip(x)),
}


@pytest.mark.parametrize("name", PEERS)
def test_each_operation_is_within_a_level_of_pils(name: str, photographs: list[np.ndarray]) -> None:
    ours, theirs = PEERS[name]
    means = []
    for image, u in zip(photographs, uniforms(0, 0, 0, 0, 200).tolist(), strict=True):
        expected = np.asarray(theirs(_pil(image), u)).astype(int)
        means.append(np.abs(ours(image.copy(), u).astype(int) - expected).mean())
    limit = {"brightness": 0, "solarize": 0, "flip": 0}.get(name, 1.0)
    assert np.mean(means) <= limit
    assert max(means) <= 2.5 * limit


def test_blur_below_half_a_pixel_is_weaker_than_pils_by_what_the_docs_say(photographs: list[np.ndarray]) -> None:
    """sigma -> how much ours and PIL's change an image, and how far they are apart, in levels on average."""
    for sigma, limits in {0.3: (0.05, 0.7), 0.4: (0.95, 0.9), 0.6: (9, 0.8), 1.5: (99, 0.7)}.items():
        changes = []
        for image in photographs[::10]:
            ours = ops.blur(image.copy(), sigma).astype(int)
            theirs = np.asarray(_pil(image).filter(ImageFilter.GaussianBlur(radius=sigma))).astype(int)
            changes.append([np.abs(a - b).mean() for a, b in ((ours, image), (theirs, image), (ours, theirs))])
        own, pil, apart = np.mean(changes, axis=0)
        assert own < limits[0]
        assert apart < limits[1]
        assert (own < 0.75 * pil) == (sigma < 0.5)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_crop_is_within_a_level_of_pils(photographs: list[np.ndarray], interpolation: str) -> None:
    spec = ViewsSpec(size=96, interpolation=interpolation)  # type: ignore[arg-type]
    mode = v2.InterpolationMode(interpolation)
    means = []
    for index, image in enumerate(photographs):
        top, left, height, width = draw_view(spec, 0, 0, index, 0, *image.shape[:2]).box
        expected = F.resized_crop(_pil(image), top, left, height, width, [96, 96], mode)
        ours = ops.crop_resize(image, (top, left, height, width), 96, interpolation)
        means.append(np.abs(ours.astype(int) - np.asarray(expected)).mean())
    assert np.mean(means) < 0.2
    assert max(means) < 1


def _pil_view(image: np.ndarray, draw: ViewDraw, spec: ViewsSpec) -> np.ndarray:
    """The whole view with PIL and torchvision, as the field's pipelines make it."""
    x = F.resized_crop(_pil(image), *draw.box, [spec.size] * 2, v2.InterpolationMode(spec.interpolation))
    if draw.jitter is not None:
        adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
        for operation in draw.order:
            x = adjust[operation](x, draw.jitter[operation])
    if draw.gray:
        x = F.rgb_to_grayscale(x, 3)
    if draw.blur_sigma:
        x = x.filter(ImageFilter.GaussianBlur(radius=draw.blur_sigma))
    if draw.solarize:
        x = ImageOps.solarize(x)
    return np.asarray(F.horizontal_flip(x) if draw.flip else x)


@pytest.mark.parametrize("name", ["moco_v2", "byol"])
def test_whole_views_are_within_a_level_of_pils(photographs: list[np.ndarray], name: str) -> None:
    spec = VIEWS[name].model_copy(update={"output": "uint8", "size": 96})
    views = TwoViews(spec, seed=5)
    means = []
    for index, image in enumerate(photographs):
        places = views.empty(1)
        views.write(image, index, 3, (places[0][0], places[1][0]))
        for view in range(2):
            expected = _pil_view(image, draw_view(spec, 5, 3, index, view, *image.shape[:2]), spec)
            means.append(np.abs(places[view][0].permute(1, 2, 0).numpy().astype(int) - expected).mean())
    assert np.mean(means) <= 1.0


def test_views_on_the_device_are_those_of_the_workers(photographs: list[np.ndarray]) -> None:
    crops = np.stack([ops.crop_resize(image, (0, 0, *image.shape[:2]), 64, "bicubic") for image in photographs])
    draws = [draw_view(BYOL, 1, 2, index, index % 2, 64, 64) for index in range(200)]
    on_device = augment_on_device(torch.from_numpy(crops).permute(0, 3, 1, 2).float(), draws)
    means = [
        np.abs(augment(crop, draw).astype(int) - got.permute(1, 2, 0).numpy()).mean()
        for crop, draw, got in zip(crops, draws, on_device, strict=True)
    ]
    assert np.mean(means) <= 1.0
    assert max(means) <= 3.0


def test_the_loader_finishes_device_views_wherever_it_is_told() -> None:
    images = _shapes()
    batches = [
        list(two_view_loader(images, spec, batch_size_per_rank=10, seed=1, epoch=2))
        for spec in (SMALL, SMALL.model_copy(update={"where": "device"}))
    ]
    for (one, two, at), (one_d, two_d, at_d) in zip(*batches, strict=True):
        assert at.tolist() == at_d.tolist()
        assert one_d.dtype == torch.float32
        # A level is 1 / (255 * 0.225) = 0.017 after normalisation.
        assert (one - one_d).abs().mean() < 0.02
        assert (two - two_d).abs().mean() < 0.02


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_device_views_are_the_same_on_a_gpu(photographs: list[np.ndarray]) -> None:
    crops = torch.from_numpy(np.stack([ops.crop_resize(x, (0, 0, *x.shape[:2]), 64, "bicubic") for x in photographs]))
    crops = crops.permute(0, 3, 1, 2).contiguous()
    made = [DeviceViews(BYOL, 0)(crops.to(device), range(200), 1, 1).cpu() for device in ("cpu", "cuda")]
    assert (made[0] - made[1]).abs().mean() < 0.02


def test_normalised_float_is_the_uint8_view_normalised() -> None:
    images = _shapes()
    pair = TwoViews(SMALL, 0)(images, 3, 1)
    raw = TwoViews(SMALL.model_copy(update={"output": "uint8"}), 0)(images, 3, 1)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (SMALL.mean, SMALL.std))
    for view, pixels in zip(pair, raw, strict=True):
        assert pixels.dtype == torch.uint8
        torch.testing.assert_close(view.double(), (pixels.double() / 255 - mean) / std, atol=1e-5, rtol=0)
