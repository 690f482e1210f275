"""timm's models as backbones. Shapes: B batch, C channels, H W size, D feature width."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pretrain.backbones.names import split_name
from pretrain.backbones.resnets import Backbone
from pretrain.runtime.errors import InputError

# Arguments of ours that no timm model takes: epsilons of the layer norms, of all of them and of the last alone, and
# whether there is a last norm at all.
EPS, LAST_EPS, LAST_NORM = "eps", "last_eps", "last_norm"


class TimmBackbone(Backbone):
    """Any timm model without its classifier: `timm:vit_small_patch16_224` and the like. Names are timm's own.

    The name may hold arguments of the model (`pretrain.backbones.names`), and `eps` and `last_eps`, which set the
    epsilon of its layer norms, and `last_norm=false`, which leaves the last one out.
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
        try:
            self.model = timm.create_model(model, pretrained=False, num_classes=0, **named, **arguments)
        except (TypeError, ValueError, AssertionError, KeyError, IndexError, RuntimeError, AttributeError) as error:
            if not named:
                raise
            raise InputError(f"timm cannot build '{name}': {error}") from None
        _set_epsilons(self.model, epsilons, name)
        if not last_norm:
            self.model.norm, self.model.fc_norm = nn.Identity(), nn.Identity()
        self.name, self.width = name, self.model.num_features
        self.stride = max((info["reduction"] for info in self.model.feature_info), default=1)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> one map, what timm's `forward_features` gives; models that give tokens have none."""
        features = self.model.forward_features(images)
        if features.ndim != 4:
            raise InputError(f"backbone '{self.name}' gives tokens {tuple(features.shape)}, no feature map")
        if features.shape[1] != self.width and features.shape[3] == self.width:
            features = features.permute(0, 3, 1, 2)  # Swin and others of timm's lay their maps out as NHWC
        return (features,)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D), pooled as timm does for this model."""
        return self.model(images)


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
