"""The ResNets: torchvision's, wider ones, and those for CIFAR.

Shapes: B batch, C channels, H W size, D feature width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from pretrain.backbones.contract import Backbone


class TorchvisionResNet(ResNet, Backbone):
    """A torchvision ResNet without its classifier; parameter names are torchvision's.

    `small_stem` puts a 3x3 stride-1 convolution and no max-pool in front, as SimCLR (appendix B.9) and solo-learn do
    for 32-pixel images.
    """

    conv1: nn.Conv2d
    bn1: nn.Module
    relu: nn.Module
    maxpool: nn.Module
    layers: int = 4
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential
    fc: nn.Linear

    def __init__(
        self,
        name: str,
        block: type[BasicBlock | Bottleneck],
        layers: list[int],
        *,
        small_stem: bool = False,
        zero_init_residual: bool = False,
        norm_layer: Callable[..., nn.Module] | None = None,
        **arguments: Any,
    ) -> None:
        super().__init__(
            block, layers, zero_init_residual=zero_init_residual, norm_layer=norm_layer, num_classes=1, **arguments
        )
        self.name = name
        self.width = self.fc.in_features
        self.stride = 8 if small_stem else 32
        del self.fc, self.avgpool
        if small_stem:
            self.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
            nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
            self.maxpool = nn.Identity()

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> maps of layer1 to layer4."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        out = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            out.append(x)
        return tuple(out)

    def map_strides(self) -> tuple[int, ...]:
        """stride/8 to stride."""
        return tuple(self.stride // factor for factor in (8, 4, 2, 1))

    def map_widths(self) -> tuple[int, ...]:
        """D/8 to D."""
        return tuple(self.width // factor for factor in (8, 4, 2, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        return Backbone.forward(self, images)


class WideResNet(TorchvisionResNet):
    """A ResNet whose every width is multiplied, stem included (`resnet50x2`)."""

    def __init__(self, name: str, block: Any, layers: list[int], *, widen: int, **arguments: Any) -> None:
        # torchvision builds the stages through `_make_layer(planes)`: widening there widens everything after the stem,
        # and `inplanes` is set by the stem.
        self._widen = widen
        self._norm_layer: Callable[..., nn.Module]
        super().__init__(name, block, layers, **arguments)

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> nn.Sequential:
        if planes == 64:  # the first call: the stem has just been built at its usual width
            self.inplanes = 64 * self._widen
            self.conv1 = nn.Conv2d(3, self.inplanes, kernel_size=7, stride=2, padding=3, bias=False)
            self.bn1 = self._norm_layer(self.inplanes)
        out = super()._make_layer(block, planes * self._widen, blocks, stride, dilate)
        self.last_width = planes * self._widen * block.expansion
        return out

    # torchvision sizes its classifier for the usual width; it is deleted at once, only D must be right.
    @property
    def width(self) -> int:  # type: ignore[override]
        """D, the widened width of layer4."""
        return self.last_width

    @width.setter
    def width(self, value: int) -> None:
        pass


class _PadShortcut(nn.Module):
    """Option A of He et al. 2016 (section 3.3): every second position, the new channels filled with zeros."""

    def __init__(self, planes_in: int, planes_out: int) -> None:
        super().__init__()
        self.before = (planes_out - planes_in) // 2
        self.after = planes_out - planes_in - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class CifarResNet(Backbone):
    """The CIFAR ResNet of He et al. 2016 (section 4.2): 6n+2 layers, 16/32/64 channels, 3x3 stem, no max-pool.

    Option A shortcuts hold no weights, option B ones are 1x1 convolutions with batch norm.
    """

    layers: int = 3
    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(
        self,
        name: str,
        depth: int,
        *,
        option: str = "A",
        zero_init_residual: bool = False,
        norm_layer: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        assert (depth - 2) % 6 == 0
        assert option in ("A", "B")
        norm = norm_layer or nn.BatchNorm2d
        self.name, self.width, self.stride = name, 64, 4
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = norm(16)
        planes_in = 16
        for index, planes in enumerate((16, 32, 64), start=1):
            blocks = []
            for position in range((depth - 2) // 6):
                stride = 2 if index > 1 and position == 0 else 1
                shortcut: nn.Module | None = None
                if stride == 2 or planes_in != planes:
                    shortcut = (
                        _PadShortcut(planes_in, planes)
                        if option == "A"
                        else nn.Sequential(nn.Conv2d(planes_in, planes, 1, stride, bias=False), norm(planes))
                    )
                blocks.append(BasicBlock(planes_in, planes, stride, shortcut, norm_layer=norm))
                planes_in = planes
            setattr(self, f"layer{index}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if zero_init_residual:
            for module in self.modules():
                if isinstance(module, BasicBlock):
                    nn.init.zeros_(module.bn2.weight)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, 3, H, W) -> maps of layer1 to layer3."""
        x = F.relu(self.bn1(self.conv1(images)))
        out = []
        for stage in (self.layer1, self.layer2, self.layer3):
            x = stage(x)
            out.append(x)
        return tuple(out)

    def map_strides(self) -> tuple[int, ...]:
        """1, 2, 4."""
        return 1, 2, 4

    def map_widths(self) -> tuple[int, ...]:
        """16, 32, 64."""
        return 16, 32, 64
