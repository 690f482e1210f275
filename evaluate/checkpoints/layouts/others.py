"""timm's names for families whose models are looked up by their shapes: XCiT, RegNet, EfficientNet."""

from __future__ import annotations

from evaluate.checkpoints.layouts.spelling import Layout

HEADS = ("fc.", "classifier.", "head.fc.", "head.weight", "head.bias", "head_dist.", "mask_token")


def _as_it_is(name: str) -> str | None:
    return None if name.startswith(HEADS) else name


# Any model of timm's, for a file that no other spelling fits and whose shapes or neighbours name the model.
WHOLE = Layout("timm", (), _as_it_is, kind="timm")

OTHERS: tuple[Layout, ...] = (
    Layout("xcit", ("patch_embed.proj.0.0.weight", "blocks.0.attn.temperature"), _as_it_is, kind="timm"),
    Layout("regnet", ("stem.conv.weight", "s1.b1.conv1.conv.weight"), _as_it_is, kind="timm"),
    Layout("efficientnet", ("conv_stem.weight", "blocks.0.0.conv_dw.weight"), _as_it_is, kind="timm"),
)
