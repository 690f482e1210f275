"""Every family keeps the one contract of backbones, at any image size; ViTs see what their own code sees."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pretrain.backbones.contract import Backbone
from pretrain.backbones.positions import INTERPOLATIONS, interpolation_of, resampled
from pretrain.backbones.registry import build
from pretrain.runtime.errors import InputError

pytest.importorskip("timm")

_VIT = "depth=3,embed_dim=24,num_heads=2"
# name -> (strides of the maps, whether there are class tokens, shortest side)
FAMILIES: dict[str, tuple[tuple[int, ...], bool, int]] = {
    "timm:resnet10t": ((4, 8, 16, 32), False, 1),
    "cifar_resnet20": ((1, 2, 4), False, 1),
    f"timm:vit_tiny_patch16_224,{_VIT}": ((16,), True, 16),
    f"timm:vit_small_patch14_dinov2,{_VIT},img_size=70": ((14,), True, 14),
    f"timm:vit_small_patch14_reg4_dinov2,{_VIT},img_size=70": ((14,), True, 14),
    f"timm:deit_tiny_distilled_patch16_224,{_VIT},img_size=64": ((16,), True, 16),
    "timm:vit_small_patch16_dinov3,depth=3,embed_dim=32,num_heads=2": ((16,), True, 16),
    "timm:eva02_tiny_patch14_224,depth=3,embed_dim=32,num_heads=2": ((14,), True, 14),
    "timm:convnext_atto,depths=[1,1,2,1],dims=[8,8,16,16]": ((4, 8, 16, 32), False, 32),
    "timm:swin_tiny_patch4_window7_224,depths=[1,2,1,1],embed_dim=16,num_heads=[1,1,2,2]": ((4, 8, 16, 32), False, 4),
    "timm:mobilenetv3_small_050": ((4, 8, 16, 32), False, 1),
}
SIZES = [(224, 224), (64, 64), (100, 70)]


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda name: name.split(",")[0].removeprefix("timm:"))
def backbone(request: pytest.FixtureRequest) -> Backbone:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(request.param).eval()


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(height * width))


@pytest.mark.parametrize("size", SIZES, ids=str)
@torch.no_grad()
def test_pooled_tokens_and_maps(backbone: Backbone, size: tuple[int, int]) -> None:
    strides, has_class, _smallest = FAMILIES[backbone.name]
    batch = images(*size)
    maps, pooled = backbone.maps(batch), backbone(batch)
    assert pooled.shape == (2, backbone.width)
    assert backbone.map_strides() == strides
    assert strides[-1] == backbone.stride
    assert [each.shape[1] for each in maps] == list(backbone.map_widths())
    for stride, each in zip(strides, maps, strict=True):
        for there, side in zip(each.shape[2:], size, strict=True):
            assert side / stride - 1 < there < side / stride + 1  # rounded up where it pads, down where it does not
    (last,) = backbone.tokens(batch)
    torch.testing.assert_close(last.patches, maps[-1].flatten(2).transpose(1, 2))
    assert (last.cls is not None) == has_class == backbone.has_class_token
    if backbone.is_plain:
        assert len(backbone.tokens(batch, backbone.layers)) == backbone.layers == 3
        first, again = backbone.layer_maps(batch, (0, 2))
        torch.testing.assert_close(again, maps[0])
        assert not torch.allclose(first, again)
    with pytest.raises(InputError, match=f"layers is 99, but backbone '{backbone.name.replace('[', '.')[:20]}"):
        backbone.tokens(batch, 99)


def test_it_says_what_is_too_small(backbone: Backbone) -> None:
    smallest = FAMILIES[backbone.name][2]
    assert backbone.smallest_px == smallest
    with torch.no_grad():
        backbone(images(smallest, smallest))
        if smallest > 8:
            with pytest.raises(InputError, match=rf"image of 40x8 px is smaller than .* at least {smallest} px"):
                backbone.maps(images(8, 40))


def test_the_order_of_depth_is_whole_and_what_is_frozen_comes_first(backbone: Backbone) -> None:
    depths = backbone.depths()
    assert list(depths) == [name for name, _parameter in backbone.named_parameters()]
    assert set(depths.values()) == set(range(max(depths.values()) + 1))
    if backbone.is_plain:
        assert max(depths.values()) == backbone.layers + 1
        assert {depths[name] for name in depths if "pos_embed" in name or "cls_token" in name} <= {0}
    frozen = copy.deepcopy(backbone)
    frozen.freeze(2)
    still = {name for name, parameter in frozen.named_parameters() if not parameter.requires_grad}
    assert still == {name for name, depth in depths.items() if depth < 2}
    with pytest.raises(InputError, match="freeze is 999"):
        frozen.freeze(999)


@torch.no_grad()
def test_a_copy_is_a_model_of_its_own(backbone: Backbone) -> None:
    """Positions are interpolated by a bound method: a copy that kept the original's would show its weights."""
    batch = images(64, 64)
    before = backbone(batch)
    for other in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        torch.testing.assert_close(other(batch), before)
        for parameter in other.parameters():
            parameter.add_(0.1)
        assert not torch.allclose(other(batch), before)
    torch.testing.assert_close(backbone(batch), before)


@pytest.mark.parametrize("size", [(224, 224), (96, 96), (160, 112)], ids=str)
@torch.no_grad()
def test_timm_itself_gives_the_same(backbone: Backbone, size: tuple[int, int]) -> None:
    if not backbone.name.startswith("timm:vit_tiny"):
        pytest.skip("the other families' positions are compared with their own code below")
    import timm

    peer = timm.create_model(
        "vit_tiny_patch16_224", depth=3, embed_dim=24, num_heads=2, num_classes=0, dynamic_img_size=True
    ).eval()
    peer.load_state_dict({name.removeprefix("model."): tensor for name, tensor in backbone.state_dict().items()})
    torch.testing.assert_close(backbone(images(*size)), peer(images(*size)))
    (found,) = backbone.maps(images(*size))
    (expected,) = peer.forward_intermediates(images(*size), indices=1, norm=True, intermediates_only=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("grid", [(14, 14), (4, 4), (7, 5), (37, 20)], ids=str)
def test_dino_scales_by_a_tenth_more(grid: tuple[int, int]) -> None:
    """As dino vision_transformer.py and dinov2 `interpolate_pos_encoding` put it, in float64."""
    positions = torch.randn(1, 1 + 14 * 14, 6, generator=torch.Generator().manual_seed(0))
    found = resampled(positions, (14, 14), grid, 1, INTERPOLATIONS["offset"])
    if grid == (14, 14):
        assert torch.equal(found, positions)
        return
    square = positions[:, 1:].double().reshape(1, 14, 14, 6).permute(0, 3, 1, 2)
    factors = (grid[0] + 0.1) / math.sqrt(14 * 14), (grid[1] + 0.1) / math.sqrt(14 * 14)
    expected = F.interpolate(square, scale_factor=factors, mode="bicubic").permute(0, 2, 3, 1).reshape(1, -1, 6)
    torch.testing.assert_close(found[:, 1:], expected.float())
    assert torch.equal(found[:, :1], positions[:, :1])
    plain = resampled(positions, (14, 14), grid, 1, INTERPOLATIONS["plain"])
    assert not torch.allclose(found, plain, atol=1e-4)


@torch.no_grad()
def test_transformers_positions() -> None:
    """Dinov2 and its successor with registers interpolate differently in Transformers, as in their own code."""
    transformers = pytest.importorskip("transformers")
    for kind, how in (("Dinov2", "plain"), ("Dinov2WithRegisters", "antialias")):
        config = getattr(transformers, f"{kind}Config")(
            hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=70, patch_size=14
        )
        torch.manual_seed(0)
        peer = getattr(transformers, f"{kind}Model")(config).eval()
        for grid in (5, 7, 3):
            own = resampled(peer.embeddings.position_embeddings, (5, 5), (grid, grid), 1, INTERPOLATIONS[how])
            sides = grid * 14, grid * 14
            expected = peer.embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + grid * grid, 24), *sides)
            torch.testing.assert_close(own, expected)


def test_the_family_is_told_by_its_name() -> None:
    told = {
        "vit_small_patch16_224": "antialias",
        "vit_small_patch16_224.dino": "offset",
        "vit_base_patch16_224.mae": "plain",
        "vit_small_patch14_dinov2.lvd142m": "offset",
        "vit_small_patch14_reg4_dinov2": "antialias",
    }
    assert {name: interpolation_of(name) for name in told} == told
    with pytest.raises(InputError, match="unknown positions 'cubic'"):
        build(f"timm:vit_tiny_patch16_224,{_VIT},positions=cubic")


@torch.no_grad()
def test_positions_and_padding_stand_in_the_name() -> None:
    name = f"timm:vit_tiny_patch16_224,{_VIT}"
    made = {}
    for more in ("", ",positions=offset", ",pad=centre"):
        torch.manual_seed(0)
        made[more] = build(name + more).eval()
    at_native, odd = images(224, 224), images(100, 100)
    for each in made.values():
        torch.testing.assert_close(each(at_native), made[""](at_native))
    assert not torch.allclose(made[""](odd), made[",positions=offset"](odd), atol=1e-5)
    centred = F.pad(odd, (6, 6, 6, 6))
    torch.testing.assert_close(made[",pad=centre"](odd), made[""](centred))


def test_fixed_positions_say_so() -> None:
    mixer = build("timm:mixer_s32_224,drop_rate=0.0")
    assert (mixer.native_px, mixer.side_for(64)) == (224, 224)
    with pytest.raises(InputError, match="takes images of 224x224 px only .* not of 64x32"):
        mixer(torch.zeros(1, 3, 32, 64))
