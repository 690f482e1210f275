"""Nearest neighbours on the emulated device are those of the CPU, and the host waits once for all queries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from emulated import emulated_cuda

from evaluate import knn
from evaluate.frozen import nearest
from evaluate.frozen.features import Features
from evaluate.protocols.knn import PROTOCOLS


def features(n: int, seed: int) -> Features:
    values = np.random.default_rng(seed).normal(size=(n, 6)).astype(np.float32)
    return Features(values, np.arange(n), np.zeros(n, dtype=np.int64))


@pytest.mark.parametrize("protocol", ["dino", "vissl"])
@pytest.mark.parametrize(("query_chunk", "train_block", "held"), [(7, 11, 16), (64, 512, 64), (5, 1, 5)])
def test_neighbours_are_those_of_the_cpu(
    monkeypatch: pytest.MonkeyPatch, protocol: str, query_chunk: int, train_block: int, held: int
) -> None:
    monkeypatch.setattr(nearest, "QUERIES_ON_DEVICE", held)
    settings = PROTOCOLS[protocol].model_copy(update={"query_chunk": query_chunk, "train_block": train_block})
    train, queries = features(60, 0), features(23, 1)
    expected = list(knn.neighbours(train, queries, 13, settings, torch.device("cpu")))
    with emulated_cuda(monkeypatch) as waits:
        found = list(knn.neighbours(train, queries, 13, settings, torch.device("cuda")))
    assert sum(waits.values()) == 2 * -(-23 // held)  # similarities and rows, once for all queries that are held
    similarity, index = (torch.cat([chunk[part] for chunk in found]) for part in (1, 2))
    assert [chunk[0] for chunk in found] == list(np.cumsum([0, *(len(chunk[1]) for chunk in found[:-1])]))
    assert torch.equal(index, torch.cat([chunk[2] for chunk in expected]))
    torch.testing.assert_close(similarity, torch.cat([chunk[1] for chunk in expected]), rtol=1e-5, atol=1e-6)
