"""The stand-ins for mmcv's operators, against loops in float64."""

from __future__ import annotations

import itertools
import math
import sys

import pytest
import torch

from evaluate.segmentation import library, ops


def test_they_stand_in_for_mmcvs_only_while_it_has_none_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "mmcv.ops", raising=False)
    monkeypatch.setattr(ops, "compiled", lambda: True)
    assert not ops.put_in_place()
    assert "mmcv.ops" not in sys.modules
    monkeypatch.setattr(ops, "compiled", lambda: False)
    assert ops.put_in_place()
    from mmcv.ops import CrissCrossAttention, PSAMask, point_sample, sigmoid_focal_loss

    assert (CrissCrossAttention, PSAMask) == (ops.CrissCrossAttention, ops.PSAMask)
    assert (point_sample, sigmoid_focal_loss) == (ops.point_sample, ops.sigmoid_focal_loss)


def test_mmsegmentation_imports_every_head_that_asks_for_an_operator():
    library.load()
    from mmseg.models.decode_heads import CCHead, PointHead, PSAHead

    assert {CCHead.__name__, PointHead.__name__, PSAHead.__name__} == {"CCHead", "PointHead", "PSAHead"}
    from mmseg.models.decode_heads import cc_head, psa_head

    assert cc_head.CrissCrossAttention is not None
    assert psa_head.PSAMask is not None


def test_installed_names_versions_and_whose_operators_are_used(monkeypatch: pytest.MonkeyPatch):
    assert library.installed().startswith("mmsegmentation 1.2.2, mmengine 0.10.7, mmcv 2.1.0 (")
    version = library._version
    monkeypatch.setattr(library, "_version", lambda name: None if name == "ftfy" else version(name))
    assert "not usable, ftfy missing: pip install 'fastmoco[segmentation]'" in library.installed()


def test_point_sample_is_bilinear_between_pixel_centres():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    points = torch.rand(2, 7, 2, generator=generator, dtype=torch.float64)
    sampled = ops.point_sample(maps, points)
    for b, c, p in itertools.product(range(2), range(3), range(7)):
        x, y = points[b, p, 0].item() * 5 - 0.5, points[b, p, 1].item() * 4 - 0.5
        expected = 0.0
        for row, column in itertools.product(range(4), range(5)):
            weight = max(0, 1 - abs(row - y)) * max(0, 1 - abs(column - x))
            expected += weight * maps[b, c, row, column].item()
        assert sampled[b, c, p].item() == pytest.approx(expected, abs=1e-12)
    grid = points[:, :6].reshape(2, 2, 3, 2)
    assert torch.equal(ops.point_sample(maps, grid).flatten(2), sampled[..., :6])


@pytest.mark.parametrize("weight", [None, torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)])
def test_focal_loss_of_class_numbers(weight: torch.Tensor | None):
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    target = torch.tensor([0, 2, 1, 3])  # 3 is no class: negatives only
    gamma, alpha = 2.0, 0.25
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for n, c in itertools.product(range(4), range(3)):
        p = 1 / (1 + math.exp(-logits[n, c].item()))
        positive = target[n] == c
        term = -alpha * (1 - p) ** gamma * math.log(p) if positive else -(1 - alpha) * p**gamma * math.log(1 - p)
        expected[n, c] = term * (1 if weight is None else weight[min(int(target[n]), 2)].item())
    assert torch.allclose(ops.sigmoid_focal_loss(logits, target, gamma, alpha, weight, "none"), expected)
    mean = ops.sigmoid_focal_loss(logits, target, gamma, alpha, weight)
    assert mean.item() == pytest.approx(expected.sum().item() / 4)
    total = ops.sigmoid_focal_loss(logits, target, gamma, alpha, weight, "sum")
    assert total.item() == pytest.approx(expected.sum().item())


def test_criss_cross_attention_attends_to_row_and_column():
    torch.manual_seed(0)
    layer = ops.CrissCrossAttention(8).double()
    layer.gamma.data.fill_(0.7)
    x = torch.randn(1, 8, 3, 4, dtype=torch.float64)
    out = layer(x)
    query, key, value = layer.query_conv(x)[0], layer.key_conv(x)[0], layer.value_conv(x)[0]
    for h, w in itertools.product(range(3), range(4)):
        places = [(g, w) for g in range(3) if g != h] + [(h, v) for v in range(4)]
        scores = torch.stack([query[:, h, w] @ key[:, i, j] for i, j in places])
        seen = sum(s * value[:, i, j] for s, (i, j) in zip(scores.softmax(0), places, strict=True))
        assert torch.allclose(out[0, :, h, w], 0.7 * seen + x[0, :, h, w])


@pytest.mark.parametrize("kind", ["collect", "distribute"])
def test_psa_mask_spreads_windows_over_absolute_positions(kind: str):
    H, W, Hm, Wm = 3, 4, 5, 3
    mask = torch.randn(2, Hm * Wm, H, W, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = torch.zeros(2, H * W, H, W, dtype=torch.float64)
    for h, w, i, j in itertools.product(range(H), range(W), range(Hm), range(Wm)):
        y, x = h + i - Hm // 2, w + j - Wm // 2
        if 0 <= y < H and 0 <= x < W:
            value = mask[:, i * Wm + j, h, w]
            if kind == "collect":
                expected[:, y * W + x, h, w] = value
            else:
                expected[:, h * W + w, y, x] = value
    assert torch.equal(ops.PSAMask(kind, (Hm, Wm))(mask), expected)
