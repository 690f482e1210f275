"""Backbones by name: torchvision ResNets, CIFAR ResNets, and timm for the rest. No backbone has a head.

Shapes: B batch, C channels, H W size, D feature width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from pretrain.errors import InputError, unknown


class Backbone(nn.Module):
    """What every backbone offers: `name`, `width` (D), `stride`, pooled features and feature maps.

    Attributes:
        name: what `build` was asked for.
        width: D, the width of the pooled features.
        stride: pixels of the input that one position of the last feature map stands for.
    """

    name: str
    width: int
    stride: int

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> the feature map after each stage, finest first; the last is (B, D, H/stride, W/stride)."""
        raise NotImplementedError  # pragma: no cover - every subclass says how

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D), the last feature map averaged over its positions."""
        return self.maps(images)[-1].mean(dim=(2, 3))


class TorchvisionResNet(ResNet, Backbone):
    """A torchvision ResNet without its classifier; parameter names are torchvision's.

    `small_stem` puts a 3x3 stride-1 convolution and no max-pool in front, as SimCLR (appendix B.9) and solo-learn do
    for 32-pixel images.
    """

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

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, D)."""
        return Backbone.forward(self, images)


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


class TimmBackbone(Backbone):
    """Any timm model without its classifier: `timm:vit_small_patch16_224` and the like. Names are timm's own."""

    def __init__(self, name: str, **arguments: Any) -> None:
        super().__init__()
        try:
            import timm
        except ModuleNotFoundError:
            raise InputError(
                f"backbone '{name}' needs timm, which is not installed: pip install 'fastmoco[timm]'"
            ) from None
        model = name.removeprefix("timm:")
        if not timm.is_model(model):
            close = timm.list_models(f"*{model.split('_')[0]}*")[:8]
            raise InputError(f"unknown timm model '{model}'; models with a name like it: {', '.join(close) or 'none'}")
        self.model = timm.create_model(model, pretrained=False, num_classes=0, **arguments)
        self.name, self.width = name, self.model.num_features
        self.stride = max((info["reduction"] for info in self.model.feature_info), default=1)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> one map, what timm's `forward_features` gives; models that give tokens have none."""
        features = self.model.forward_features(images)
        if features.ndim != 4:
            raise InputError(f"backbone '{self.name}' gives tokens {tuple(features.shape)}, no feature map")
        return (features,)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D), pooled as timm does for this model."""
        return self.model(images)


_RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int], dict[str, Any]]] = {
    "resnet18": (BasicBlock, [2, 2, 2, 2], {}),
    "resnet34": (BasicBlock, [3, 4, 6, 3], {}),
    "resnet50": (Bottleneck, [3, 4, 6, 3], {}),
    "resnet101": (Bottleneck, [3, 4, 23, 3], {}),
    "resnet152": (Bottleneck, [3, 8, 36, 3], {}),
    "resnet200": (Bottleneck, [3, 24, 36, 3], {}),
    # x2, x3 ...: every width times 2, 3 ... (SimCLR, BYOL, SwAV), which is not torchvision's wide_resnet50_2.
    "resnet50x2": (Bottleneck, [3, 4, 6, 3], {"widen": 2}),
    "resnet50x3": (Bottleneck, [3, 4, 6, 3], {"widen": 3}),
    "resnet50x4": (Bottleneck, [3, 4, 6, 3], {"widen": 4}),
    "resnet50x5": (Bottleneck, [3, 4, 6, 3], {"widen": 5}),
    "resnet101x2": (Bottleneck, [3, 4, 23, 3], {"widen": 2}),
    "resnet152x2": (Bottleneck, [3, 8, 36, 3], {"widen": 2}),
    "resnet200x2": (Bottleneck, [3, 24, 36, 3], {"widen": 2}),
    "wide_resnet50_2": (Bottleneck, [3, 4, 6, 3], {"width_per_group": 128}),
    "wide_resnet101_2": (Bottleneck, [3, 4, 23, 3], {"width_per_group": 128}),
    "resnext50_32x4d": (Bottleneck, [3, 4, 6, 3], {"groups": 32, "width_per_group": 4}),
    "resnext101_32x8d": (Bottleneck, [3, 4, 23, 3], {"groups": 32, "width_per_group": 8}),
    "resnet18_cifar": (BasicBlock, [2, 2, 2, 2], {"small_stem": True}),
    "resnet34_cifar": (BasicBlock, [3, 4, 6, 3], {"small_stem": True}),
    "resnet50_cifar": (Bottleneck, [3, 4, 6, 3], {"small_stem": True}),
}
_CIFAR_DEPTHS = (20, 32, 44, 56)


class _WideStart(TorchvisionResNet):
    """A ResNet whose every width is multiplied, stem included (`resnet50x2`)."""

    def __init__(self, name: str, block: Any, layers: list[int], *, widen: int, **arguments: Any) -> None:
        # torchvision builds the stages through `_make_layer(planes)`: widening there widens everything after the stem,
        # and `inplanes` is set by the stem.
        self._widen = widen
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


def names() -> list[str]:
    """Every name `build` knows; any timm model goes as `timm:MODEL` besides."""
    return [*_RESNETS, *(f"cifar_resnet{d}{s}" for d in _CIFAR_DEPTHS for s in ("", "_b"))]


def build(
    name: str,
    *,
    zero_init_residual: bool = False,
    norm_layer: Callable[..., nn.Module] | None = None,
    padding: str = "symmetric",
    stride_in_1x1: bool = False,
) -> Backbone:
    """A freshly initialised backbone, in training mode.

    Args:
        name: one of `names()`, or `timm:MODEL`. `cifar_resnet20` has option A shortcuts, `cifar_resnet20_b` option B.
        zero_init_residual: start each residual branch at zero (Goyal et al. 2017, section 5.1).
        norm_layer: makes a norm layer from its width; batch norm when not given.
        padding: "same" pads as TensorFlow and JAX do at stride 2 (BYOL's files need it), "symmetric" as torch does;
            "wide_stem" puts 2 pixels around a 3x3 stem (solo-learn's files of CIFAR, solo/methods/base.py).
        stride_in_1x1: put a bottleneck's stride on its first 1x1 convolution (MSRA's original files).

    Raises:
        InputError: no such backbone, or an option that the backbone does not have.
    """
    if padding not in ("symmetric", "same", "wide_stem"):
        raise InputError(f"padding is '{padding}', expected 'symmetric', 'same' or 'wide_stem'")
    if name.startswith("timm:"):
        if zero_init_residual or norm_layer is not None or padding != "symmetric" or stride_in_1x1:
            raise InputError(f"backbone '{name}' takes no zero_init_residual, norm_layer, padding or stride_in_1x1")
        return TimmBackbone(name)
    if name not in names():
        raise unknown("backbone", name, [*names(), "timm:MODEL"])
    options: dict[str, Any] = {"zero_init_residual": zero_init_residual, "norm_layer": norm_layer}
    backbone: Backbone
    if name.startswith("cifar_"):
        stem, _, option = name.removeprefix("cifar_resnet").partition("_")
        backbone = CifarResNet(name, int(stem), option="B" if option else "A", **options)
    else:
        block, layers, extra = _RESNETS[name]
        backbone = (_WideStart if "widen" in extra else TorchvisionResNet)(name, block, layers, **extra, **options)
    if stride_in_1x1:
        _move_stride(backbone)
    if padding == "same":
        _pad_same(backbone)
    elif padding == "wide_stem":
        _pad_stem(backbone)
    return backbone


def _move_stride(backbone: nn.Module) -> None:
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


def _pad_same(backbone: nn.Module) -> None:
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


def _pad_stem(backbone: Backbone) -> None:
    stem = backbone.get_submodule("conv1")
    if not isinstance(stem, nn.Conv2d) or stem.kernel_size != (3, 3):
        raise InputError(f"padding 'wide_stem' is for a 3x3 stem, which backbone '{backbone.name}' does not have")
    stem.padding = (2, 2)


def num_parameters(module: nn.Module) -> int:
    """How many trainable and frozen numbers the module holds, buffers left out."""
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def fingerprint(module: nn.Module) -> str:
    """Hexadecimal SHA-256 over the names, shapes and bits of all parameters and buffers: what a frozen trunk keeps."""
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().cpu().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
