"""timm's models as backbones: ViTs of any family, and networks of stages.

Shapes: B batch, C channels, H W size, D feature width.

A model takes images of any size where timm lets it: ViTs by interpolated positions, Swin by padded windows. Those of
fixed positions (BEiT, mixers) say so in `native_px`.
"""

from __future__ import annotations

import inspect
import math
import re
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.backbones.contract import Backbone, Tokens, check_depth, check_layers
from pretrain.backbones.names import split_name
from pretrain.backbones.positions import INTERPOLATIONS, interpolate_by, interpolation_of
from pretrain.runtime.errors import InputError, unknown

# Arguments of ours that no timm model takes: epsilons of the layer norms, of all of them and of the last alone, and
# whether there is a last norm at all; how positions follow the size of the image, and where an image is filled up to a
# multiple of the patch.
EPS, LAST_EPS, LAST_NORM, POSITIONS, PAD = "eps", "last_eps", "last_norm", "positions", "pad"
_ANY_SIZE: tuple[dict[str, Any], ...] = ({"dynamic_img_size": True}, {"strict_img_size": False}, {})
_WRONG = (TypeError, ValueError, AssertionError, KeyError, IndexError, RuntimeError, AttributeError)


class TimmBackbone(Backbone):
    """Any timm model without its classifier: `timm:vit_small_patch16_224` and the like. Names are timm's own.

    The name may hold arguments of the model (`pretrain.backbones.names`), and of ours `eps` and `last_eps`, which set
    the epsilon of its layer norms, `last_norm=false`, which leaves the last one out, `positions` (a name in
    `INTERPOLATIONS`; the family's own when not given) and `pad` ("end" or "centre").
    """

    model: Any

    def __init__(self, name: str, **arguments: Any) -> None:
        super().__init__()
        try:
            import timm
        except ModuleNotFoundError:
            raise InputError(
                f"backbone '{name}' needs timm, which is not installed: pip install 'fastmoco[timm]'"
            ) from None
        model, named = split_name(name)
        if not timm.is_model(model):
            close = timm.list_models(f"*{model.split('_')[0]}*")[:8]
            raise InputError(f"unknown timm model '{model}'; models with a name like it: {', '.join(close) or 'none'}")
        _check_arguments(named, name)
        epsilons = {key: named.pop(key) for key in (EPS, LAST_EPS) if key in named}
        last_norm = named.pop(LAST_NORM, True)
        positions = _choice(named, POSITIONS, interpolation_of(model), INTERPOLATIONS)
        self.pad = _choice(named, PAD, "end", ("end", "centre"))
        self.model = _created(name, model, {**named, **arguments}, told=bool(named))
        _set_epsilons(self.model, epsilons, name)
        if not last_norm:
            self.model.norm, self.model.fc_norm = nn.Identity(), nn.Identity()
        # What the classifier would see, which is not always what the last map has.
        self.name, self.width = name, getattr(self.model, "head_hidden_size", None) or self.model.num_features
        self.stride = max((info["reduction"] for info in self.model.feature_info), default=1)
        self.seen_as_tokens, self.stages = _gives_tokens(self.model), _stages(self.model)
        self.layers = len(self.model.blocks) if self.seen_as_tokens else max(len(self.stages), 1)
        self.has_class_token = self.seen_as_tokens and _class_tokens(self.model)
        any_size = bool(getattr(self.model, "dynamic_img_size", False))
        if any_size and hasattr(self.model, "_pos_embed"):
            interpolate_by(self.model, INTERPOLATIONS[positions])
        elif not any_size and self.model.pretrained_cfg.get("fixed_input_size"):
            self.native_px = int(named.get("img_size") or self.model.pretrained_cfg["input_size"][-1])
        self.patch = self.stride if self.seen_as_tokens else _patch(self.model)
        self.smallest_px = self.stride if self.seen_as_tokens or _patchifies(self.model) else self.patch

    @property
    def is_plain(self) -> bool:
        """Whether it is a ViT of one stride."""
        return self.seen_as_tokens

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> a ViT's last block after its norm; of a network of stages the map of each, NCHW.

        Raises:
            InputError: an image of a size that the model does not take, or a model without maps.
        """
        if self.seen_as_tokens:
            return self.layer_maps(images, (self.layers - 1,))
        images = self.fitted(images)
        if not self.stages:
            return (self._nchw(self.model.forward_features(images), self.model.num_features),)
        last, stages = self.model.forward_intermediates(images, indices=list(self.stages))
        stages = [*stages[:-1], last if last.ndim == 4 else stages[-1]]  # the last with the model's final norm
        return tuple(self._nchw(stage, width) for stage, width in zip(stages, self.map_widths(), strict=True))

    def map_strides(self) -> tuple[int, ...]:
        """A ViT's patch; of a network of stages the reduction of each."""
        if self.seen_as_tokens or not self.stages:
            return (self.stride,)
        return tuple(self.model.feature_info[index]["reduction"] for index in self.stages)

    def map_widths(self) -> tuple[int, ...]:
        """Channels of each of `maps`, finest first."""
        if self.seen_as_tokens or not self.stages:
            return (self.model.num_features,)
        return (*(self.model.feature_info[index]["num_chs"] for index in self.stages[:-1]), self.model.num_features)

    def layer_maps(self, images: Tensor, layers: tuple[int, ...], *, norm: bool = True) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> maps after these blocks of a ViT, (B, D, H/patch, W/patch), or of these stages."""
        if not self.seen_as_tokens:
            return super().layer_maps(images, layers, norm=norm)
        check_layers(layers, self.layers, self.name)
        images = self.fitted(images)
        maps = self.model.forward_intermediates(
            images, indices=list(layers), norm=norm, output_fmt="NCHW", intermediates_only=True
        )
        order = sorted(set(layers))
        return tuple(maps[order.index(layer)] for layer in layers)

    def tokens(self, images: Tensor, last: int = 1, *, norm: bool = True) -> list[Tokens]:
        """(B, C, H, W) -> class and patch tokens of the `last` blocks of a ViT, or positions of the last stages."""
        if not self.seen_as_tokens:
            return super().tokens(images, last, norm=norm)
        check_depth(last, self.layers, self.name)
        options: dict[str, Any] = {"indices": last, "norm": norm, "output_fmt": "NLC", "intermediates_only": True}
        if not _prefix_tokens(self.model):
            return [
                Tokens(None, patches) for patches in self.model.forward_intermediates(self.fitted(images), **options)
            ]
        found = self.model.forward_intermediates(self.fitted(images), return_prefix_tokens=True, **options)
        if not self.model.num_prefix_tokens:
            return [Tokens(None, each[0] if isinstance(each, tuple) else each) for each in found]
        return [Tokens(prefix[:, 0] if self.has_class_token else None, patches) for patches, prefix in found]

    def depths(self) -> dict[str, int]:
        """Of a ViT as MAE has it (util/lr_decay.py): stem, positions and class token 0, block i at i + 1, the norm
        after them; of others by timm's own `group_matcher`, which puts a final norm with the last block."""
        names = [name for name, _parameter in self.model.named_parameters()]
        if self.seen_as_tokens:
            return {f"model.{name}": self._depth(name) for name in names}
        from timm.models import group_parameters

        groups = group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)
        return {f"model.{name}": int(groups[name]) for name in names}  # type: ignore[call-overload]

    def _depth(self, name: str) -> int:
        block = re.match(r"blocks\.(\d+)\.", name)
        if block:
            return int(block.group(1)) + 1
        return self.layers + 1 if name.startswith(("norm.", "fc_norm.", "blocks_token_only.")) else 0

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D), pooled as timm does for this model."""
        return self.model(self.fitted(images))

    def fitted(self, images: Tensor) -> Tensor:
        """The images, filled up with black to a multiple of the patch where they are none.

        Raises:
            InputError: they are smaller than the patch, or not of the one size that the model takes.
        """
        H, W = images.shape[-2:]
        if self.native_px is not None and {H, W} != {self.native_px}:
            raise InputError(
                f"backbone '{self.name}' takes images of {self.native_px}x{self.native_px} px only (its positions are "
                f"fixed), not of {W}x{H}"
            )
        if min(H, W) < self.smallest_px:
            raise InputError(
                f"an image of {W}x{H} px is smaller than what one position of backbone '{self.name}' stands for: "
                f"expected at least {self.smallest_px} px"
            )
        down, right = (math.ceil(side / self.patch) * self.patch - side for side in (H, W))
        if not (down or right):
            return images
        above, left = (down // 2, right // 2) if self.pad == "centre" else (0, 0)
        return F.pad(images, (left, right - left, above, down - above))

    def _nchw(self, found: Tensor, channels: int) -> Tensor:
        if found.ndim != 4:
            raise InputError(f"backbone '{self.name}' gives tokens {tuple(found.shape)}, no feature map")
        if found.shape[1] != channels and found.shape[3] == channels:
            return found.permute(0, 3, 1, 2)  # Swin and others of timm's lay their maps out as NHWC
        return found


def _created(name: str, model: str, arguments: dict[str, Any], *, told: bool) -> Any:
    import timm

    for any_size in _ANY_SIZE:
        try:
            return timm.create_model(model, pretrained=False, num_classes=0, **{**any_size, **arguments})
        except TypeError as error:
            # The model does not know the option; with none left it is the name's own arguments that it refuses.
            if any_size and next(iter(any_size)) in str(error):
                continue
            if not told:
                raise
            raise InputError(f"timm cannot build '{name}': {error}") from None
        except _WRONG as error:
            if not told:
                raise
            raise InputError(f"timm cannot build '{name}': {error}") from None
    raise AssertionError  # pragma: no cover - the last way has no option of ours


def _choice(named: dict[str, Any], key: str, default: str, there: Any) -> str:
    value = named.pop(key, default)
    if value not in there:
        raise unknown(key, str(value), there)
    return value


def _gives_tokens(model: Any) -> bool:
    """Whether it is a plain ViT: blocks of one width on patches, from which timm gives maps and tokens."""
    return (
        isinstance(getattr(model, "blocks", None), nn.Sequential | nn.ModuleList)
        and hasattr(model, "patch_embed")
        and hasattr(model, "forward_intermediates")
        and len({(info["num_chs"], info["reduction"]) for info in model.feature_info}) == 1
        and len(model.feature_info) == len(model.blocks)
    )


def _prefix_tokens(model: Any) -> bool:
    return "return_prefix_tokens" in inspect.signature(model.forward_intermediates).parameters


def _class_tokens(model: Any) -> bool:
    """Whether every block sees a class token; CaiT and XCiT add theirs after the last."""
    return getattr(model, "cls_token", None) is not None and _prefix_tokens(model)


def _patch(model: Any) -> int:
    from timm.layers import PatchEmbed

    embed = getattr(model, "patch_embed", None)
    return int(embed.patch_size[0]) if isinstance(embed, PatchEmbed) else 1


def _patchifies(model: nn.Module) -> bool:
    """Whether it has strided windows without padding (ConvNeXt), which find nothing on a map smaller than they are."""
    windows = (
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.stride[0] > 1 and not name.startswith("patch_embed")
    )
    return any(window.kernel_size == window.stride and window.padding == (0, 0) for window in windows)


def _stages(model: Any) -> tuple[int, ...]:
    """Which of timm's feature maps are the stages: the last of each stride from 4 on, finest first; () without any."""
    if not hasattr(model, "forward_intermediates"):
        return ()
    last = {info["reduction"]: index for index, info in enumerate(model.feature_info) if info["reduction"] >= 4}
    return tuple(last[stride] for stride in sorted(last))


# What timm's `create_model` does with files and heads is no argument of an architecture.
_NOT_ARGUMENTS = frozenset((
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable",
    "exportable", "no_jit", "num_classes", "in_chans", "features_only", "out_indices", "feature_cfg",
    "pretrained_strict", "pretrained_filter_fn",
))  # fmt: skip
# No architecture has numbers above it; a name that says otherwise would be built for hours.
_LARGEST = 1 << 16


def _check_arguments(named: dict[str, Any], name: str) -> None:
    for key, value in named.items():
        if key in _NOT_ARGUMENTS:
            raise InputError(f"'{name}' gives {key}, which is no argument of an architecture")
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, list) or (isinstance(each, int | float) and abs(each) > _LARGEST):
                raise InputError(f"{key} of '{name}' is {value}; expected numbers of at most {_LARGEST}")
        if key == "depth" and isinstance(value, int) and value > 256:
            raise InputError(f"depth of '{name}' is {value}; expected at most 256")


def _set_epsilons(model: nn.Module, epsilons: dict[str, Any], name: str) -> None:
    for key, value in epsilons.items():
        if not isinstance(value, float | int) or isinstance(value, bool) or not 0 < value < 1:
            raise InputError(f"{key} of '{name}' is {value}; expected a number between 0 and 1")
        norms = {at: norm for at, norm in model.named_modules() if isinstance(norm, nn.LayerNorm)}
        last = [at for at in norms if at in ("norm", "fc_norm", "head.norm")]
        for at in last if key == LAST_EPS else norms:
            norms[at].eps = float(value)
