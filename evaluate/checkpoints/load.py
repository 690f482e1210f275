"""From a checkpoint reference to a backbone that is ready to measure: all of its weights, or an error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from pretrain import backbones
from pretrain.files import sha256_of_file
from pretrain.handover import BackboneMetadata, read_backbone

RANDOM = "random:"


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone whose every tensor came from the file (or from the seed, for `random:`).

    Attributes:
        module: on the CPU, float32, eval mode, no gradients.
        metadata: backbone name, normalisation, method, epoch and the rest of what the file says.
        ref: what the user named: a file or `random:BACKBONE`.
        sha256: of the file; for `random:` of the weights themselves (`pretrain.backbones.fingerprint`).
        format: the format the file was recognised as; "random" for random initialisation.
    """

    module: backbones.Backbone
    metadata: BackboneMetadata
    ref: str
    sha256: str
    format: str


def load_backbone(ref: str | Path, *, select: str | None = None, seed: int = 0) -> LoadedBackbone:
    """Load `FILE` or `random:BACKBONE`.

    Args:
        ref: a checkpoint file of any known format, or `random:resnet50` for random initialisation drawn from `seed`.
        select: the prefix of the encoder to take where a file holds several.

    Raises:
        InputError: no such file, a format that is not known, or a trunk of which a single tensor is missing.
    """
    ref = str(ref)
    if ref.startswith(RANDOM):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = backbones.build(ref.removeprefix(RANDOM))
        metadata = BackboneMetadata(backbone=module.name, method="random", seed=seed)
        return LoadedBackbone(_frozen(module), metadata, ref, backbones.fingerprint(module), "random")
    tensors, metadata = read_backbone(Path(ref))
    module = backbones.build(metadata.backbone, padding=metadata.padding, stride_in_1x1=metadata.stride_in_1x1)
    module.load_state_dict(tensors)
    return LoadedBackbone(_frozen(module), metadata, ref, sha256_of_file(Path(ref)), "fastmoco")


def _frozen(module: backbones.Backbone) -> backbones.Backbone:
    return module.eval().requires_grad_(False)
