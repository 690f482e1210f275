from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.patches import combinations, combine, divide, mixing_matrix, patch_size
from pretrain.runtime.errors import InputError


def test_divide_reads_row_by_row():
    image = torch.arange(16.0).view(1, 1, 4, 4)
    patches = divide(image, 2)
    assert patches.shape == (4, 1, 2, 2)
    assert patches[:, 0].tolist() == [[[0, 1], [4, 5]], [[2, 3], [6, 7]], [[8, 9], [12, 13]], [[10, 11], [14, 15]]]


def test_divide_is_patch_major_over_the_batch():
    images = torch.randn(3, 2, 6, 6)
    patches = divide(images, 3).unflatten(0, (9, 3))
    assert torch.equal(patches[5, 1], images[1, :, 2:4, 4:6])


def test_divide_keeps_channels_last_and_gradients():
    images = torch.randn(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    assert divide(images, 2).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(divide(images, 2), divide(images.contiguous(), 2))
    images.requires_grad_(True)
    divide(images, 2).sum().backward()
    assert torch.equal(images.grad, torch.ones_like(images))


def test_overlapping_patches_reach_from_edge_to_edge():
    image = torch.arange(8.0).expand(1, 1, 8, 8)
    patches = divide(image, 2, overlap=0.5)  # cells of 4, patches of 6
    assert patches.shape == (4, 1, 6, 6)
    assert patches[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert patches[1, 0, 0].tolist() == [2, 3, 4, 5, 6, 7]


@given(grid=st.sampled_from([1, 2, 3]), cell=st.integers(1, 6), n=st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_tiling_loses_no_pixel(grid, cell, n):
    images = torch.rand(n, 1, grid * cell, grid * cell)
    patches = divide(images, grid).unflatten(0, (grid * grid, n))
    rows = [torch.cat([patches[r * grid + c] for c in range(grid)], dim=3) for r in range(grid)]
    assert torch.equal(torch.cat(rows, dim=2), images)


@pytest.mark.parametrize(
    ("size", "grid", "overlap", "message"),
    [
        (32, 3, 0.0, "grid 3 does not divide a view of 32 pixels; for this size grid may be 1, 2, 4"),
        (32, 2, 0.3, "overlap 0.3 gives patches of 20.8 pixels"),
    ],
)
def test_what_does_not_fit_is_refused(size, grid, overlap, message):
    with pytest.raises(InputError, match=message):
        patch_size(size, grid, overlap)


@given(patches=st.integers(1, 9), data=st.data())
@settings(deadline=None, max_examples=40)
def test_combinations_are_all_of_them_each_once(patches, data):
    r = data.draw(st.integers(1, patches))
    rows = combinations(patches, r).tolist()
    assert len(rows) == math.comb(patches, r)
    assert len({tuple(row) for row in rows}) == len(rows)
    assert rows == sorted(rows)
    assert all(row == sorted(set(row)) for row in rows)


def test_a_cap_draws_by_its_seed():
    assert len(combinations(9, 4)) == 126
    capped = combinations(9, 4, limit=20, seed=3)
    assert len(capped) == 20
    assert torch.equal(capped, combinations(9, 4, limit=20, seed=3))
    assert not torch.equal(capped, combinations(9, 4, limit=20, seed=4))
    assert torch.equal(combinations(4, 2, limit=20), combinations(4, 2))


@pytest.mark.parametrize("r", [0, 5])
def test_combine_out_of_range(r):
    with pytest.raises(InputError, match=f"combine is {r}, expected 1 to 4: a view has 4 patches"):
        combinations(4, r)


def test_combine_averages():
    embeddings = torch.arange(8.0, dtype=torch.float64).view(4, 1, 2)
    mixed = combine(embeddings, mixing_matrix(combinations(4, 2), 4))
    assert mixed[:, 0].tolist() == [[1, 2], [2, 3], [3, 4], [3, 4], [4, 5], [5, 6]]
    assert mixing_matrix(combinations(9, 3), 9).sum(1).sub(1).abs().max() < 1e-15
