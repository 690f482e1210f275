"""Batch norm whose statistics are taken over all ranks, on any device.

torch's SyncBatchNorm does the same on GPUs alone, with fused kernels; `across_ranks` picks it there.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class CrossRankBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over (N, D) or (N, D, H, W) with mean and variance over every rank's samples.

    Every rank must bring the same number of samples. Names of parameters and buffers are BatchNorm's.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        assert input.ndim in (2, 4), f"expected (N, D) or (N, D, H, W), not {tuple(input.shape)}"

    def forward(self, input: Tensor) -> Tensor:
        """Same shape as the input."""
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(input)
        axes = [0, *range(2, input.ndim)]
        shape = [1, -1] + [1] * (input.ndim - 2)
        world_size = dist.get_world_size()
        # Two passes, as a one-pass variance (mean of squares less square of mean) loses digits when the mean is large.
        mean = all_reduce(input.mean(axes)) / world_size
        centred = input - mean.view(shape)
        variance = all_reduce(centred.square().mean(axes)) / world_size
        self._update_running(mean.detach(), variance.detach(), count=world_size * input.numel() // input.shape[1])
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out

    @torch.no_grad()
    def _update_running(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        assert self.momentum is not None
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var.dtype), self.momentum)


def across_ranks(module: nn.Module, device: torch.device) -> nn.Module:
    """Replace every batch norm in `module` by one over all ranks: torch's on GPUs, ours elsewhere.

    Parameters and buffers are the same tensors as before, in their own precision. What is returned is `module`, or the
    new batch norm where `module` is one itself.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return _over_ranks(module)
    for name, child in module.named_children():
        setattr(module, name, across_ranks(child, device))
    return module


def _over_ranks(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> CrossRankBatchNorm:
    new = CrossRankBatchNorm(norm.num_features, norm.eps, norm.momentum, affine=False, track_running_stats=False)
    new.affine, new.track_running_stats = norm.affine, norm.track_running_stats
    # Taken over, not copied into new ones: those would be float32, and float64 weights would be rounded.
    new.weight, new.bias = norm.weight, norm.bias
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        new.register_buffer(name, getattr(norm, name))
    return new.train(norm.training)
