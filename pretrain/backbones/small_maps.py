"""Convolutions on small maps as matrix products, which CPU kernels for convolutions are slow at.

Patches of small images leave the last stages maps of one or two positions. There a window covers the whole map wherever
it lies, and most of it lies on padding, which the kernels multiply as well: on a 1x1 map eight of the nine weights of a
3x3 window meet zeros only, on a 2x2 map five of nine. A 1x1 window over a few positions of many channels is a product
already, and takes half the time as one.

Shapes: B batch, C channels in, K channels out, H W size of the map, O outputs along both sides together.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PRODUCT_UP_TO = 16  # positions of a map: above, both take the same time


class SmallMapConv2d(nn.Conv2d):
    """`nn.Conv2d` with the same parameters and, up to rounding, the same output and gradients.

    It is `nn.Conv2d` itself in evaluation, so that a file's features are what torch's own layers give, to the bit, and
    on a GPU, where nothing of this has been measured.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H_out, W_out)."""
        plain = self.groups == 1 and self.padding_mode == "zeros" and self.dilation == (1, 1)
        if not (self.training and plain and input.device.type == "cpu"):
            return super().forward(input)
        H, W = input.shape[2:]
        if self._is_product() and H * W <= PRODUCT_UP_TO:
            return F.linear(input.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)
        starts = self._starts(H, W)
        if starts is None:
            return super().forward(input)
        tops, lefts = starts
        # (O, K, H, W, C): for each output the part of the window that lies on the map. Pixel by pixel with the channels
        # side by side, as channels_last has them in memory.
        window = self.weight.permute(0, 2, 3, 1)
        parts = [window[:, top : top + H, left : left + W] for top in tops for left in lefts]
        matrix = torch.cat(parts).flatten(1) if len(parts) > 1 else parts[0].flatten(1)
        bias = self.bias if self.bias is None else self.bias.repeat(len(parts))
        out = F.linear(input.permute(0, 2, 3, 1).flatten(1), matrix, bias)
        return out.unflatten(1, (len(tops), len(lefts), -1)).permute(0, 3, 1, 2)

    def _is_product(self) -> bool:
        return self.kernel_size == (1, 1) and self.stride == (1, 1) and self.padding == (0, 0)

    def _starts(self, H: int, W: int) -> tuple[list[int], list[int]] | None:
        """Where in the window the map begins, for each output row and column; None unless it covers the map in all."""
        assert not isinstance(self.padding, str)
        found = []
        for size, kernel, stride, padding in zip((H, W), self.kernel_size, self.stride, self.padding, strict=True):
            outputs = (size + 2 * padding - kernel) // stride + 1
            starts = [padding - output * stride for output in range(outputs)]
            if not starts or starts[-1] < 0 or starts[0] + size > kernel:
                return None
            found.append(starts)
        return found[0], found[1]


def spare_padding(module: nn.Module) -> None:
    """Make every convolution in `module` a `SmallMapConv2d`; tensors and their names are kept."""
    for convolution in module.modules():
        if type(convolution) is nn.Conv2d:
            convolution.__class__ = SmallMapConv2d
