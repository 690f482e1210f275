"""What pretraining hands on: `backbone.safetensors`, torchvision names without the head, and where it came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open

from pretrain.runtime.errors import InputError
from pretrain.runtime.files import write_bytes

if TYPE_CHECKING:  # reading what a file says of itself needs no torch
    from torch import Tensor

# The one key of the file's header: safetensors orders several at random, and equal weights must be equal files.
KEY = "fastmoco_backbone"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Normalization(BaseModel):
    """How pixels become the backbone's input: (pixel / 255 - mean) / std per channel, in this channel order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    channels: str = "RGB"


class BackboneMetadata(BaseModel):
    """What a backbone file says of itself.

    Attributes:
        backbone: name for `pretrain.backbones.registry.build`; padding and stride_in_1x1 are that function's options.
        method: "fast_moco", "moco_v3", ... or the format a third-party file was recognised as.
        recipe, epoch, step, seed: of the pretraining; None where a third-party file does not say.
        parent_sha256: of the file these weights were taken from.
        prefix: under which the weights stood in that file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str
    padding: str = "symmetric"
    stride_in_1x1: bool = False
    normalization: Normalization = Normalization()
    method: str
    recipe: str | None = None
    epoch: int | None = None
    step: int | None = None
    seed: int | None = None
    data: str | None = None
    code_version: str | None = None
    parent_sha256: str | None = None
    prefix: str | None = None


def write_backbone(path: Path, tensors: dict[str, Tensor], metadata: BackboneMetadata) -> None:
    """Write the file whole or not at all. `tensors`: torchvision names without the head."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {KEY: metadata.model_dump_json()}
    write_bytes(path, save(contiguous, metadata=header))


def read_backbone(path: Path) -> tuple[dict[str, Tensor], BackboneMetadata]:
    """The tensors and metadata of a file that `write_backbone` made.

    Raises:
        InputError: no such file, not a safetensors file, or not one of ours.
    """
    metadata = read_metadata(path)
    with safe_open(str(path), framework="pt") as stream:
        return {name: stream.get_tensor(name) for name in stream.keys()}, metadata  # noqa: SIM118 - it has no __iter__


def read_metadata(path: Path) -> BackboneMetadata:
    """The metadata alone, without reading the tensors. Raises InputError as `read_backbone` does."""
    if not Path(path).is_file():
        raise InputError(f"no backbone file at {path}")
    try:
        with safe_open(str(path), framework="numpy") as stream:
            header: dict[str, Any] = stream.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file: {error}") from None
    if KEY not in header:
        raise InputError(f"{path} is a safetensors file, but not one that fastmoco wrote (no '{KEY}' in its header)")
    return BackboneMetadata.model_validate(json.loads(header[KEY]))
