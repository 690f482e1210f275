"""Convolutions on small maps: equal to torch's, wherever the window lies, and cheaper where it covers the map."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pretrain.backbones import registry
from pretrain.backbones.small_maps import SmallMapConv2d, spare_padding


@given(
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    kernel=st.sampled_from([1, 2, 3, 5, (3, 1)]),
    stride=st.integers(1, 3),
    padding=st.sampled_from([0, 0, 1, 2, 3]),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    channels_last=st.booleans(),
)
def test_outputs_and_gradients_are_torchs(
    height, width, kernel, stride, padding, dilation, groups, bias, channels_last
) -> None:
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": bias}
    theirs = nn.Conv2d(4, 6, kernel, **options).double()
    ours = SmallMapConv2d(4, 6, kernel, **options).double()
    ours.load_state_dict(theirs.state_dict())
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.randn(3, 4, height, width, dtype=torch.float64).contiguous(memory_format=layout)
    try:
        expected = theirs(images)
    except RuntimeError:  # the window is larger than the padded map
        with pytest.raises(RuntimeError):
            ours(images)
        return
    weights = torch.randn_like(expected)
    gradients = []
    for convolution in (theirs, ours):
        pixels = images.clone().requires_grad_()
        out = convolution(pixels)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-12)
        (out * weights).sum().backward()
        gradients.append([pixels.grad, *(parameter.grad for parameter in convolution.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "stride", "of_the_work"),
    # Of nine weights one, four and (for each of four outputs) four meet the map; on a larger map nothing is left out.
    [(1, 1, 1 / 9), (2, 2, 4 / 9), (2, 1, 4 / 9), (3, 1, 1)],
)
def test_what_meets_only_padding_is_not_computed(size: int, stride: int, of_the_work: float) -> None:
    counts = []
    for kind in (SmallMapConv2d, nn.Conv2d):
        with FlopCounterMode(display=False) as counter:
            kind(8, 16, 3, stride, padding=1)(torch.zeros(2, 8, size, size))
        counts.append(counter.get_total_flops())
    assert counts[0] == pytest.approx(counts[1] * of_the_work)


@pytest.mark.parametrize("name", ["resnet18", "resnet18_cifar", "cifar_resnet20_b", "resnet50"])
def test_a_backbone_keeps_its_tensors_and_its_features(name: str) -> None:
    ours = registry.build(name).double()
    kinds = {type(module) for module in ours.modules() if isinstance(module, nn.Conv2d)}
    assert kinds == {SmallMapConv2d}
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    features = ours(images)
    features.square().sum().backward()
    plain = registry.build(name).double()
    for module in plain.modules():
        if isinstance(module, SmallMapConv2d):
            module.__class__ = nn.Conv2d
    plain.load_state_dict(ours.state_dict())
    expected = plain(images)
    torch.testing.assert_close(features, expected, rtol=1e-8, atol=1e-10)
    expected.square().sum().backward()
    for (key, one), other in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert (one.grad - other.grad).norm() <= 1e-8 * other.grad.norm(), key


def test_evaluation_is_torchs_to_the_bit() -> None:
    ours, theirs = SmallMapConv2d(64, 64, 3, padding=1).eval(), nn.Conv2d(64, 64, 3, padding=1)
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(8, 64, 2, 2)
    assert torch.equal(ours(images), theirs(images))


def test_other_convolutions_are_left_alone() -> None:
    class Own(nn.Conv2d):
        pass

    module = nn.Sequential(nn.Conv2d(3, 4, 3), Own(4, 4, 3), nn.Conv1d(4, 4, 3))
    spare_padding(module)
    assert [type(layer) for layer in module] == [SmallMapConv2d, Own, nn.Conv1d]
