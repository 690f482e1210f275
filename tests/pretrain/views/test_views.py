"""The two views: each operation against PIL's and torchvision's, the draws, and their independence of workers."""

from __future__ import annotations

import io
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import pretrain.views.operations as ops
from pretrain.data.catalog import Catalog, ShapesEntry
from pretrain.data.images import ImageSet, Source, decode_image
from pretrain.runtime.errors import InputError
from pretrain.views.draws import ViewDraw, draw_view, uniforms
from pretrain.views.on_device import DeviceViews
from pretrain.views.on_device import augment as augment_on_device
from pretrain.views.settings import BYOL, CIFAR, MOCO_V2, VIEWS, ViewsSpec, named_views
from pretrain.views.two_views import TwoViewLoader, TwoViews, augment, epoch_order, two_view_loader

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


def test_the_draws_have_the_distributions_of_the_recipe() -> None:
    draws = [draw_view(BYOL, 9, 1, index, 1, 400, 600) for index in range(4000)]
    jittered = [d.jitter for d in draws if d.jitter is not None]
    for share, p in (
        (len(jittered), 0.8),
        (sum(d.gray for d in draws), 0.2),
        (sum(d.blur_sigma > 0 for d in draws), 0.1),
        (sum(d.solarize for d in draws), 0.2),
        (sum(d.flip for d in draws), 0.5),
    ):
        assert stats.binomtest(share, 4000, p).pvalue > 1e-4
    for place, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        assert stats.kstest([j[place] for j in jittered], stats.uniform(low, high - low).cdf).pvalue > 1e-4
    sigmas = [d.blur_sigma for d in draws if d.blur_sigma]
    assert stats.kstest(sigmas, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-4
    orders = np.unique([d.order for d in draws], axis=0, return_counts=True)[1]
    assert len(orders) == 24
    assert stats.chisquare(orders).pvalue > 1e-4


@pytest.mark.parametrize("shape", [(375, 500), (100, 1000), (32, 32)])
def test_crops_are_distributed_as_torchvisions(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    peer = torch.empty(3, *shape)
    transform = v2.RandomResizedCrop(9, (0.2, 1.0))
    expected = [transform.make_params([peer]) for _ in range(3000)]
    ours = [draw_view(MOCO_V2, 1, 1, index, 0, *shape).box for index in range(3000)]
    for place, name in enumerate(("top", "left", "height", "width")):
        assert stats.ks_2samp([box[place] for box in ours], [float(e[name]) for e in expected]).pvalue > 1e-4


def test_views_of_a_sample_differ_and_epochs_differ() -> None:
    keys = [(seed, epoch, index, view) for seed in (0, 1) for epoch in (0, 1) for index in (0, 1) for view in (0, 1, 2)]
    assert len({float(uniforms(*key, 1)[0]) for key in keys}) == len(keys)
    assert uniforms(2**70 + 3, 1, 2, 1, 4).tolist() == uniforms(2**70 + 3, 1, 2, 1, 4).tolist()


def test_the_stream_never_changes() -> None:
    # Written down: a change would break the resumption of every run.
    assert uniforms(1, 2, 3, 1, 3).round(6).tolist() == STREAM
    assert epoch_order(8, 1, 2).tolist() == ORDER


STREAM = [0.739273, 0.172722, 0.540629]
ORDER = [4, 2, 0, 6, 1, 5, 7, 3]


def _epoch(images: ImageSet, spec: ViewsSpec = SMALL, **given: int) -> list[tuple[torch.Tensor, ...]]:
    settings = {"batch_size_per_rank": 8, "seed": 4, "epoch": 1, **given}
    return list(two_view_loader(images, spec, **settings))  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # eight workers on two cores
@pytest.mark.filterwarnings("ignore:This DataLoader will create 8 worker processes:UserWarning")  # on few cores
def test_views_do_not_depend_on_the_number_of_workers_or_a_resume() -> None:
    images = _shapes()
    reference = _epoch(images)
    assert len(reference) == 6  # 50 images: the last two are dropped
    assert len({int(i) for *_, index in reference for i in index}) == 48
    for other in (_epoch(images, workers=1), _epoch(images, workers=8)):
        for batch, same in zip(reference, other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))
    for batch, same in zip(reference[4:], _epoch(images, skip_batches=4), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(batch, same, strict=True))
    assert not torch.equal(reference[0][0], _epoch(images, epoch=2)[0][0])


def test_ranks_share_the_batches_that_one_rank_would_read() -> None:
    images = _shapes()
    whole = _epoch(images)
    parts = [_epoch(images, batch_size_per_rank=4, world_size=2, rank=rank) for rank in range(2)]
    for batch, first, second in zip(whole, *parts, strict=True):
        for tensor, halves in zip(batch, zip(first, second, strict=True), strict=True):
            assert torch.equal(tensor, torch.cat(halves))


def test_three_views() -> None:
    one, two, three, index = _epoch(_shapes(), views=3)[0]
    assert one.shape == three.shape == (8, 3, 24, 24)
    assert index.shape == (8,)
    assert not torch.equal(two, three)


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    _epoch(_shapes(), workers=1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()  # type: ignore[index]


class _Flawed(Source):
    """Images of which some are damaged, and one may take its worker with it."""

    identity = "flawed"

    def __init__(self, count: int, damaged: tuple[int, ...], deadly: int | None = None, wrong: int | None = None):
        self.count, self.damaged, self.deadly, self.wrong = count, damaged, deadly, wrong
        buffer = io.BytesIO()
        Image.new("RGB", (12, 12), (9, 9, 9)).save(buffer, "JPEG")
        self.data = buffer.getvalue()

    def __len__(self) -> int:
        return self.count

    def encoded(self, row: int) -> bytes:
        if row == self.deadly:
            os._exit(7)
        if row == self.wrong:
            raise ZeroDivisionError("a fault of the program")
        return self.data[:50] if row in self.damaged else self.data

    def where(self, row: int) -> str:
        return f"image-{row}"


def _flawed(count: int, *damaged: int, **given: int) -> ImageSet:
    labels = np.zeros(count, dtype=np.int64)
    return ImageSet(_Flawed(count, damaged, **given), name="f", split="train", classes=("x",), labels=labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_stops_the_run_by_default(workers: int) -> None:
    with pytest.raises(InputError, match=r"^image image-5 does not decode \(50 bytes\)[^\n]*$"):
        _epoch(_flawed(40, 5), workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_skipped_when_asked(workers: int, caplog: pytest.LogCaptureFixture) -> None:
    images = _flawed(2000, 5, 6)
    spec = CIFAR.model_copy(update={"size": 8, "on_error": "skip"})
    loader = TwoViewLoader(images, spec, batch_size_per_rank=100, seed=0, epoch=0, workers=workers)
    with caplog.at_level("WARNING", logger="fastmoco"):
        seen = sorted(int(i) for *_, index in loader for i in index)
    assert seen == sorted([*(i for i in range(2000) if i not in (5, 6)), 7, 7])
    assert sorted(loader.damaged) == [5, 6]
    assert "2 damaged images were replaced by the next one: image image-5 does not decode" in caplog.text


def test_more_than_one_in_a_thousand_is_too_many() -> None:
    spec = CIFAR.model_copy(update={"size": 8, "on_error": "skip"})
    with pytest.raises(InputError, match=r"3 damaged images in epoch 1 are more than the 0.1 %"):
        _epoch(_flawed(2000, 5, 600, 1200), spec, batch_size_per_rank=500)


@pytest.mark.timeout(60)
def test_a_worker_that_dies_ends_the_run() -> None:
    with pytest.raises(RuntimeError, match=r"worker.*exited unexpectedly"):
        _epoch(_flawed(40, deadly=20), workers=2)


@pytest.mark.timeout(60)
def test_a_fault_in_a_worker_shows_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match=r"(?s)in DataLoader worker process.*a fault of the program"):
        _epoch(_flawed(40, wrong=20), workers=2)


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(InputError, match="a global batch of 64 is larger than the data set s/train, which has 50"):
        _epoch(_shapes(), batch_size_per_rank=32, world_size=2, rank=0)


def test_images_of_other_kinds_decode(tmp_path: Path) -> None:
    pixels = np.full((9, 7, 3), (200, 100, 50), dtype=np.uint8)
    for mode, suffix in (("RGB", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "GIF"), ("1", "PNG")):
        buffer = io.BytesIO()
        _pil(pixels).convert(mode).save(buffer, suffix)
        buffer.seek(0)
        decoded = decode_image(buffer.getvalue(), "x")
        expected = np.asarray(Image.open(buffer).convert("RGB")).astype(int)
        assert decoded.shape == (9, 7, 3)
        assert np.abs(decoded - expected).max() <= 1, mode
    with pytest.raises(InputError, match=r"image nothing does not decode .0 bytes.: it is empty"):
        decode_image(b"", "nothing")


def test_named_views_and_their_checks() -> None:
    assert named_views("byol").solarize_p == (0.0, 0.2)
    assert named_views("moco_v3").crop_scale == (0.2, 1.0)
    with pytest.raises(InputError, match="unknown set of views 'moco'"):
        named_views("moco")
    for changes, says in (
        ({"crop_scale": [0.5, 0.2]}, "the smaller one first"),
        ({"crop_scale": [0.5, 1.2]}, "at most 1"),
        ({"jitter": [0.4, 0.4, 0.4, 0.6]}, "hue's at most 0.5"),
        ({"blur_p": [0.5, 1.5]}, "blur_p"),
    ):
        with pytest.raises(InputError, match=says):
            MOCO_V2.override(changes)
    assert math.isclose(CIFAR.mean[0], 0.4914)
