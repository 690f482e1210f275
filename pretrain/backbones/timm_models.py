"""timm's models as backbones. Shapes: B batch, C channels, H W size, D feature width."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from pretrain.backbones.resnets import Backbone
from pretrain.runtime.errors import InputError


class TimmBackbone(Backbone):
    """Any timm model without its classifier: `timm:vit_small_patch16_224` and the like. Names are timm's own."""

    model: Any

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
