"""The probes' transforms against torchvision's on PIL images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from pretrain.backbones.handover import Normalization
from pretrain.data.catalog import Catalog, ShapesEntry
from pretrain.transforms import test_transform, train_transform

IMAGE = Catalog({"s": ShapesEntry(format="shapes", size=90, train=10)})
AS_IS = Normalization(mean=(0, 0, 0), std=(1, 1, 1))


def _image(height: int, width: int) -> np.ndarray:
    return np.array(Image.fromarray(IMAGE.images("s", "train").decode(0)).resize((width, height)))


@pytest.mark.parametrize("shape", [(90, 61), (61, 90), (333, 500), (40, 40)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_the_test_image_is_torchvisions(shape: tuple[int, int], interpolation: str) -> None:
    image = _image(*shape)
    peer = v2.Compose([v2.Resize(64, InterpolationMode(interpolation)), v2.CenterCrop(56)])
    expected = np.asarray(peer(Image.fromarray(image))).astype(float)
    ours = test_transform(64, 56, interpolation, AS_IS)(image).permute(1, 2, 0).numpy() * 255
    assert ours.shape == (56, 56, 3)
    assert np.abs(ours - expected).mean() < 0.3


def test_sizes_may_be_left_out_and_small_images_are_padded() -> None:
    image = _image(20, 30)
    plain = test_transform(None, None, normalization=AS_IS)(image)
    assert torch.equal((plain * 255).round().to(torch.uint8), torch.from_numpy(image).permute(2, 0, 1))
    padded = test_transform(None, 40, normalization=AS_IS)(image)
    assert padded.shape == (3, 40, 40)
    assert padded[:, :10].abs().max() == 0
    torch.testing.assert_close(padded[:, 10:30, 5:35], plain)


def test_channels_can_be_swapped() -> None:
    image = _image(20, 20)
    rgb = test_transform(None, None, normalization=AS_IS)(image)
    bgr = test_transform(None, None, normalization=Normalization(mean=(0, 0, 0), std=(1, 1, 1), channels="BGR"))(image)
    assert torch.equal(rgb.flip(0), bgr)


def test_the_training_image_depends_on_epoch_and_index_alone() -> None:
    transform = train_transform(32, seed=3)
    image = _image(60, 80)
    assert torch.equal(transform(image, 1, 5), train_transform(32, seed=3)(image, 1, 5))
    assert not torch.equal(transform(image, 1, 5), transform(image, 2, 5))
    assert not torch.equal(transform(image, 1, 5), transform(image, 1, 6))
    assert transform(image, 0, 0).shape == (3, 32, 32)
