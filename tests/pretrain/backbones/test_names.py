"""A timm backbone's name with arguments is read, spelt and built as it says."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pretrain.backbones.names import spell_name, split_name
from pretrain.backbones.registry import build
from pretrain.runtime.errors import InputError

TINY = "timm:vit_tiny_patch16_224,depth=1,embed_dim=32,img_size=32,num_heads=2,patch_size=8"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("timm:a", {}),
        ("timm:a,num_heads=12", {"num_heads": 12}),
        ("timm:a,depths=[1,2],eps=1e-12,fc_norm=false", {"depths": [1, 2], "eps": 1e-12, "fc_norm": False}),
        ("timm:a,act_layer=quick_gelu,ls=none", {"act_layer": "quick_gelu", "ls": None}),
    ],
)
def test_there_and_back(name: str, arguments: dict[str, object]) -> None:
    assert split_name(name) == ("a", arguments)
    assert spell_name("a", dict(reversed(arguments.items()))) == name


@pytest.mark.parametrize("name", ["timm:a,b", "timm:a,b=", "timm:a,=3", "timm:a,b=1,b=2", "timm:a,B c=1"])
def test_what_is_no_argument_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"expected key=value|twice"):
        split_name(name)


def test_the_model_is_built_with_them() -> None:
    pytest.importorskip("timm")
    model = build(f"{TINY},eps=1e-12,last_eps=0.5").model
    assert (model.blocks[0].attn.num_heads, model.blocks[0].norm1.eps, model.norm.eps) == (2, 1e-12, 0.5)
    for wrong, said in (("eps=2", "between 0 and 1"), ("foo=1", "timm cannot build"), ("num_heads=5", "timm cannot")):
        with pytest.raises(InputError, match=said):
            build(f"timm:vit_tiny_patch16_224,{wrong}")


def test_maps_of_a_swin_are_channels_first() -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    swin = build(
        "timm:swin_tiny_patch4_window7_224,depths=[1,1],embed_dim=16,img_size=32,num_heads=[1,2],window_size=4"
    )
    swin.eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        *_finer, last = swin.maps(images)
        assert last.shape == (2, 32, 4, 4)
        torch.testing.assert_close(last.mean((2, 3)), swin(images))
        assert isinstance(swin.model.norm, nn.LayerNorm)
