"""Changes to a built backbone that foreign files need: where its strides are, and how it pads. Names are kept."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

from pretrain.backbones.contract import Backbone
from pretrain.runtime.errors import InputError


def move_stride(backbone: nn.Module) -> None:
    """Put each bottleneck's stride on its first 1x1 convolution. Raises InputError for basic blocks."""
    for module in backbone.modules():
        if isinstance(module, Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
        elif isinstance(module, BasicBlock):
            raise InputError("stride_in_1x1 is for bottleneck blocks; this backbone has basic blocks")


class _SamePadding(nn.Module):
    """Pads an even input on the right and bottom only, as TensorFlow's SAME does, before a strided window."""

    def __init__(self, kernel: int, stride: int, value: float) -> None:
        super().__init__()
        self.kernel, self.stride, self.value = kernel, stride, value

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for size in (x.shape[3], x.shape[2]):
            total = max((-(-size // self.stride) - 1) * self.stride + self.kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return F.pad(x, pads, value=self.value)


def pad_same(backbone: nn.Module) -> None:
    """Pad every strided window as TensorFlow does."""
    # Stride 1 with an odd kernel is the same under both conventions; only strided windows differ. The padding is added
    # by a forward pre-hook so that parameter names stay torchvision's.
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.stride[0] > 1 and module.kernel_size[0] > 1:
            value = 0.0
        elif isinstance(module, nn.MaxPool2d):
            value = float("-inf")
        else:
            continue
        kernel = module.kernel_size if isinstance(module.kernel_size, int) else module.kernel_size[0]
        stride = module.stride if isinstance(module.stride, int) else module.stride[0]
        module.padding = 0 if isinstance(module, nn.MaxPool2d) else (0, 0)
        pad = _SamePadding(int(kernel), int(stride), value)
        module.register_forward_pre_hook(lambda _module, inputs, pad=pad: (pad(inputs[0]),))


def pad_stem(backbone: Backbone) -> None:
    """Pad a 3x3 stem by two pixels instead of one. Raises InputError for a backbone with another stem."""
    stem = backbone.get_submodule("conv1")
    if not isinstance(stem, nn.Conv2d) or stem.kernel_size != (3, 3):
        raise InputError(f"padding 'wide_stem' is for a 3x3 stem, which backbone '{backbone.name}' does not have")
    stem.padding = (2, 2)
