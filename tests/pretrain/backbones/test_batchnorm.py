"""Batch norm over ranks takes over the tensors of the one it replaces."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.backbones import registry
from pretrain.backbones.batchnorm import CrossRankBatchNorm, across_ranks

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_keep_their_precision_and_are_the_same_tensors(dtype) -> None:
    """Weights in float64 went through float32 and lost half of their digits."""
    module = registry.build("cifar_resnet20").to(dtype)
    generator = torch.Generator().manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 1 / 3)
    module.bn1.requires_grad_(False)
    module.layer1[0].bn1.eval()
    before = {name: (tensor, tensor.clone()) for name, tensor in module.state_dict(keep_vars=True).items()}
    images = torch.rand(2, 3, 16, 16, generator=generator).to(dtype)
    expected = module.eval()(images)
    module.train()
    module.layer1[0].bn1.eval()
    assert across_ranks(module, CPU) is module
    after = module.state_dict(keep_vars=True)
    assert list(after) == list(before)
    for name, (tensor, value) in before.items():
        assert after[name] is tensor, name
        assert after[name].dtype == value.dtype
        assert torch.equal(after[name], value)
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 19
    assert all(isinstance(norm, CrossRankBatchNorm) for norm in norms)
    assert not module.bn1.weight.requires_grad
    assert [norm.training for norm in norms].count(False) == 1
    assert torch.equal(module.eval()(images), expected)


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}, {"momentum": 0.3, "eps": 1e-3}])
def test_a_norm_of_any_kind_is_replaced_whether_alone_or_in_a_network(options) -> None:
    norm = nn.BatchNorm1d(5, dtype=torch.float64, **options)
    x = torch.randn(7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    new, inside = across_ranks(norm, CPU), across_ranks(nn.Sequential(norm), CPU)[0]
    for each in (new, inside):
        assert isinstance(each, CrossRankBatchNorm)
        assert (each.affine, each.track_running_stats) == (norm.affine, norm.track_running_stats)
        assert (each.momentum, each.eps) == (norm.momentum, norm.eps)
        assert each.state_dict().keys() == norm.state_dict().keys()
        assert torch.equal(each.eval()(x), norm.eval()(x))
