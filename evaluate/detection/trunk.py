"""Any backbone of ours as detectron2's backbone, by its last map: for those that detectron2's ResNet cannot hold."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone import Backbone
from torch import Tensor

from pretrain.backbones import registry

MAP = "map"


class LastMap(Backbone):
    """`trunk` under detectron2's contract: (B, 3, H, W) -> {"map": (B, D, H / stride, W / stride)}."""

    def __init__(self, name: str, norm: str) -> None:
        super().__init__()
        self.trunk = registry.build(name, norm_layer=lambda width: get_norm(norm, width))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> the last map under its name."""
        return {MAP: self.trunk.maps(images)[-1]}

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Width and stride of the map."""
        return {MAP: ShapeSpec(channels=self.trunk.width, stride=self.trunk.stride)}


@BACKBONE_REGISTRY.register()
def build_last_map_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> LastMap:
    """The backbone that `cfg.MODEL.TRUNK.NAME` names, with the norm layers of `cfg.MODEL.RESNETS.NORM`."""
    assert input_shape.channels == 3
    return LastMap(cfg.MODEL.TRUNK.NAME, cfg.MODEL.RESNETS.NORM)
