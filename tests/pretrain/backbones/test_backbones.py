"""Backbones: names, widths and strides, the two paddings, timm's models, and what is said of wrong names."""

from __future__ import annotations

import copy
import itertools
import sys

import pytest
import torch
import torchvision
from torch.nn import functional as F

from pretrain.backbones import registry
from pretrain.runtime.errors import InputError


def on_meta(name: str) -> registry.Backbone:
    """Shapes alone, so that the widest of them costs nothing."""
    with torch.device("meta"):
        return registry.build(name)


@pytest.mark.parametrize("name", registry.names())
def test_width_and_stride_are_those_of_the_last_map(name):
    backbone = on_meta(name).eval()
    maps = backbone.maps(torch.empty(2, 3, 64, 64, device="meta"))
    assert maps[-1].shape == (2, backbone.width, 64 // backbone.stride, 64 // backbone.stride)
    assert all(a.shape[2] >= b.shape[2] for a, b in itertools.pairwise(maps))
    assert backbone(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, backbone.width)
    assert backbone.name == name


# Millions of parameters without the classifier: torchvision's documentation less its 1000-way layer; SimCLR
# (arXiv 2002.05709), table 1 and 6, for the widened ones; He et al. 2016, table 6, for CIFAR's (0.27 M with its head).
@pytest.mark.parametrize(
    ("name", "millions"),
    [("resnet18", 11.18), ("resnet50", 23.51), ("resnet101", 42.50), ("wide_resnet50_2", 66.83), ("resnet50x2", 93.9),
     ("resnet50x4", 375.4), ("cifar_resnet20", 0.27), ("cifar_resnet56", 0.85)],
)  # fmt: skip
def test_parameters_are_as_many_as_published(name, millions):
    assert registry.num_parameters(on_meta(name)) / 1e6 == pytest.approx(millions, abs=0.06 if millions > 90 else 0.01)


def test_names_of_parameters_are_torchvisions():
    for name in ("resnet18", "resnet50", "resnext50_32x4d"):
        theirs = torchvision.models.get_model(name, weights=None).state_dict()
        ours = registry.build(name).state_dict()
        expected = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
        assert {key: value.shape for key, value in ours.items()} == expected


def explicitly_padded(backbone: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """resnet18 with TensorFlow's padding of strided windows written out for even sizes: all on the right and bottom."""
    b = backbone
    x = F.conv2d(F.pad(images, (2, 3, 2, 3)), b.conv1.weight, stride=2)
    x = F.max_pool2d(F.pad(b.bn1(x).relu(), (0, 1, 0, 1), value=float("-inf")), 3, 2)
    for stage in (b.layer1, b.layer2, b.layer3, b.layer4):
        for block in stage:
            strided = block.conv1.stride == (2, 2)
            padded = F.pad(x, (0, 1, 0, 1)) if strided else F.pad(x, (1, 1, 1, 1))
            y = block.bn1(F.conv2d(padded, block.conv1.weight, stride=2 if strided else 1)).relu()
            y = block.bn2(F.conv2d(y, block.conv2.weight, padding=1))
            x = (y + (x if block.downsample is None else block.downsample(x))).relu()
    return x.mean(dim=(2, 3))


def test_same_padding_is_tensorflows():
    symmetric = registry.build("resnet18").double().eval()
    same = registry.build("resnet18", padding="same").double().eval()
    same.load_state_dict(symmetric.state_dict())  # the names do not change
    generator = torch.Generator().manual_seed(0)
    even = torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(same(even), explicitly_padded(symmetric, even), rtol=1e-12, atol=1e-12)
    assert (same(even) - symmetric(even)).abs().max() > 1e-3
    # Sizes that stay odd all the way down (65, 33, 17, ...) are padded alike by both.
    odd = torch.randn(2, 3, 65, 65, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(same(odd), symmetric(odd), rtol=1e-12, atol=1e-12)
    assert [m.shape for m in same.maps(even)] == [m.shape for m in symmetric.maps(even)]
    torch.testing.assert_close(copy.deepcopy(same)(even), same(even))


def test_the_stride_can_be_in_the_first_convolution():
    usual, caffe = registry.build("resnet50"), registry.build("resnet50", stride_in_1x1=True)
    for block, other in zip(usual.layer2, caffe.layer2, strict=True):  # type: ignore[arg-type]
        assert (block.conv1.stride, block.conv2.stride) == (other.conv2.stride, other.conv1.stride)
    assert caffe.layer2[0].conv1.stride == (2, 2)  # type: ignore[index,union-attr]
    caffe.load_state_dict(usual.state_dict())
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert [m.shape for m in caffe.eval().maps(images)] == [m.shape for m in usual.eval().maps(images)]
    with pytest.raises(InputError, match="stride_in_1x1 is for bottleneck blocks"):
        registry.build("resnet18", stride_in_1x1=True)


def test_residual_branches_start_at_zero_when_asked():
    for name, last in (("resnet50", "layer1.0.bn3.weight"), ("cifar_resnet20", "layer1.0.bn2.weight")):
        assert registry.build(name, zero_init_residual=True).state_dict()[last].abs().sum() == 0
        assert registry.build(name).state_dict()[last].min() == 1


@pytest.mark.parametrize(("model", "width", "stride"), [("resnet18", 512, 32), ("vit_tiny_patch16_224", 192, 16)])
def test_any_model_of_timm(model, width, stride):
    backbone = registry.build(f"timm:{model}").eval()
    images = torch.zeros(1, 3, 224, 224)
    with torch.no_grad():
        assert backbone(images).shape == (1, width)
    assert (backbone.name, backbone.width, backbone.stride) == (f"timm:{model}", width, stride)
    side = 224 // stride
    assert backbone.maps(images)[-1].shape == (1, width, side, side)


def test_wrong_names_and_options_are_told(monkeypatch):
    with pytest.raises(InputError, match=r"unknown backbone 'resnet51'.*resnet50.*timm:MODEL"):
        registry.build("resnet51")
    with pytest.raises(InputError, match=r"unknown timm model 'vit_huge99'; models with a name like it: .*vit_"):
        registry.build("timm:vit_huge99")
    with pytest.raises(InputError, match="'timm:resnet18' takes no zero_init_residual, norm_layer, padding"):
        registry.build("timm:resnet18", zero_init_residual=True)
    with pytest.raises(InputError, match="padding is 'valid', expected"):
        registry.build("resnet18", padding="valid")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"needs timm, which is not installed: pip install 'fastmoco\[timm\]'"):
        registry.build("timm:resnet18")


def test_the_fingerprint_sees_one_bit():
    backbone = registry.build("cifar_resnet20")
    before = registry.fingerprint(backbone)
    assert registry.fingerprint(copy.deepcopy(backbone)) == before
    with torch.no_grad():
        backbone.state_dict()["layer3.2.bn2.running_mean"][5] = 1e-45
    assert registry.fingerprint(backbone) != before
