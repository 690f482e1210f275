"""The named kNN protocols. Each number carries its source."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from evaluate.protocols.images import FeatureProtocol


class KnnProtocol(FeatureProtocol):
    """Weighted k nearest neighbours on frozen features.

    Every one of the k nearest training images votes for its class with weight exp(similarity / temperature); with
    `vote` "uniform" with weight 1.

    Attributes:
        k: neighbours of the main metric; more than there are training images is an error.
        also_k: further values, each reported as `top1/kK`. Of a preset's own list, those that exceed the training set
            are left out, and a line says so; of a list that the user gave, they are an error.
        temperature: of the vote.
        l2_normalize: similarity is the cosine; else the plain dot product.
        query_chunk, train_block: images compared at once; memory is about query_chunk * train_block * 4 bytes plus
            the features of one chunk and one block, whatever the sizes of the sets.
    """

    k: int = Field(default=20, ge=1)
    also_k: tuple[int, ...] = (10, 100, 200)
    temperature: float = Field(default=0.07, gt=0)
    vote: Literal["softmax", "uniform"] = "softmax"
    l2_normalize: bool = True
    query_chunk: int = Field(default=2048, ge=1)
    train_block: int = Field(default=2048, ge=1)

    @field_validator("also_k")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if any(k < 1 for k in value):
            raise ValueError("every k must be at least 1")
        return value


PROTOCOLS: dict[str, KnnProtocol] = {
    "dino": KnnProtocol(
        name="dino",
        source="facebookresearch/dino eval_knn.py (k 10/20/100/200, T 0.07, reports k=20)",
        k=20,
        also_k=(10, 100, 200),
        temperature=0.07,
    ),
    "lightly": KnnProtocol(
        name="lightly",
        source="lightly-ai/lightly benchmarks/imagenet/resnet50/knn_eval.py (k 200, T 0.1; DINO R50: 49.9 where DINO's "
        "own protocol gives 65.7, lightly PR 1254)",
        k=200,
        also_k=(),
        temperature=0.1,
        interpolation="bilinear",
    ),
    "vissl": KnnProtocol(
        name="vissl",
        source="facebookresearch/vissl configs/config/benchmark/nearest_neighbor (k 200, sigma 0.1, L2_NORM off)",
        k=200,
        also_k=(),
        temperature=0.1,
        l2_normalize=False,
        interpolation="bilinear",
    ),
}
DEFAULT = "dino"
