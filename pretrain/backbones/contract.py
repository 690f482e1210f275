"""What every backbone offers, whatever its family: the one contract that tasks, pretraining and checkpoints rely on.

Shapes: B batch, C channels, H W size, D feature width, T patch tokens.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pretrain.runtime.errors import InputError


@dataclass(frozen=True)
class Tokens:
    """What one layer says of the images: a class token where the family has one, and the positions of its map.

    Attributes:
        cls: (B, D), or None for a family without a class token.
        patches: (B, T, D), row by row; register tokens are left out.
    """

    cls: Tensor | None
    patches: Tensor

    def pooled(self, what: str) -> Tensor:
        """(B, D), or (B, 2 D) for "both": the class token ("class"), the "mean" of the patches, or one after the other.

        "pooled" is the class token, and the mean where the family has none.
        """
        mean = self.patches.mean(dim=1)
        if what == "mean" or (what == "pooled" and self.cls is None):
            return mean
        assert self.cls is not None
        return torch.cat([self.cls, mean], dim=1) if what == "both" else self.cls


class Backbone(nn.Module):
    """What every backbone offers. Images of any size go in; none has a head.

    Attributes:
        name: what `build` was asked for.
        width: D, the width of the pooled features; of the last map too, but for networks whose head begins before the
            classifier (MobileNet v3), see `map_widths`.
        stride: pixels of the input that one position of the last map stands for.
        patch: side of a patch in pixels (ViT, Swin); 1 for families that are not made of patches. Images whose sides
            are no multiple of it are padded, see `pad`.
        smallest_px: the shortest side of an image it takes.
        native_px: the only side it takes, for families whose positions cannot follow the image; None for all others.
        pad: where the black pixels go that fill an image up to a multiple of the patch: "end" is right and
            below (timm's dynamic_img_pad), "centre" half on each side (DINOv2's segmentation, `CenterPadding`).
        has_class_token: whether `tokens` gives class tokens.
        layers: how many layers `tokens` and `layer_maps` can look at: blocks of a ViT, stages of the others.
    """

    name: str
    width: int
    stride: int
    patch: int = 1
    smallest_px: int = 1
    native_px: int | None = None
    pad: str = "end"
    has_class_token: bool = False
    layers: int = 1

    @property
    def is_plain(self) -> bool:
        """Whether all layers see one map of one stride, as in a ViT, and there is no pyramid of stages."""
        return False

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> the feature map after each stage, finest first; the last is (B, D, H/stride, W/stride).

        A ViT has one stage: its last block, after the final norm.
        """
        raise NotImplementedError  # pragma: no cover - every subclass says how

    def map_strides(self) -> tuple[int, ...]:
        """The stride of each of `maps`, finest first."""
        raise NotImplementedError  # pragma: no cover - every subclass says how

    def map_widths(self) -> tuple[int, ...]:
        """Channels of each of `maps`, finest first."""
        raise NotImplementedError  # pragma: no cover - every subclass says how

    def layer_maps(self, images: Tensor, layers: tuple[int, ...], *, norm: bool = True) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> the maps after these layers (from 0, as in blocks [3, 5, 7, 11]), (B, D_i, H_i, W_i).

        `norm` applies a ViT's final norm to each of them; stages are as `maps` gives them.

        Raises:
            InputError: a layer that the backbone does not have.
        """
        maps = self.maps(images)
        check_layers(layers, len(maps), self.name)
        return tuple(maps[layer] for layer in layers)

    def tokens(self, images: Tensor, last: int = 1, *, norm: bool = True) -> list[Tokens]:
        """(B, C, H, W) -> what each of the `last` layers says, the last one last.

        `norm` applies a ViT's final norm to each. Stages of other families give the positions of their maps.

        Raises:
            InputError: more layers than there are.
        """
        maps = self.maps(images)
        check_depth(last, len(maps), self.name)
        return [Tokens(None, stage.flatten(2).transpose(1, 2)) for stage in maps[-last:]]

    def depths(self) -> dict[str, int]:
        """Parameter name -> place in order of depth: 0 is the stem with positions and class token, then block after
        block, and a last place for a final norm. A head comes after all of them. What layer-wise lr decay goes by."""
        found: dict[str, int] = {}
        places: dict[str, int] = {}
        for name, _parameter in self.named_parameters():
            block = re.match(r"layer\d+\.\d+", name)
            key = block.group() if block else ""
            found[name] = 0 if not key else places.setdefault(key, len(places) + 1)
        return found

    def freeze(self, n: int) -> None:
        """Freeze the first `n` places in order of depth (1: the stem). Raises InputError: there are fewer."""
        depths = self.depths()
        most = max(depths.values()) + 1
        if n > most:
            raise InputError(f"freeze is {n}, but backbone '{self.name}' has {most} places in depth: at most {most}")
        for name, parameter in self.named_parameters():
            if depths[name] < n:
                parameter.requires_grad_(False)

    def side_for(self, side_px: int) -> int:
        """The side nearest above `side_px` that it takes without padding."""
        return self.native_px or -(-side_px // self.patch) * self.patch

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D), the last feature map averaged over its positions."""
        return self.maps(images)[-1].mean(dim=(2, 3))


def check_layers(wanted: tuple[int, ...], there: int, name: str) -> None:
    """Raises InputError: a layer (from 0) beyond the last of `there`."""
    if wanted and not 0 <= min(wanted) <= max(wanted) < there:
        raise InputError(f"layers are {list(wanted)}, but backbone '{name}' has only 0 to {there - 1}")


def check_depth(last: int, there: int, name: str) -> None:
    """Raises InputError: more last layers than `there`."""
    if last > there:
        raise InputError(f"layers is {last}, but backbone '{name}' has only {there}")
