"""From a checkpoint reference to a backbone that is ready to measure: all of its weights, or an error."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evaluate.checkpoints.analyse import analyse, metadata_of
from evaluate.checkpoints.analysis import Analysis
from evaluate.checkpoints.architectures import COUNTER
from evaluate.checkpoints.limits import one_sentence, readable
from evaluate.checkpoints.normalizations import preset
from pretrain.backbones import registry
from pretrain.backbones.handover import BackboneMetadata
from pretrain.runtime.errors import InputError

RANDOM = "random:"
log = logging.getLogger("fastmoco")


@dataclass(frozen=True)
class LoadedBackbone:
    """A backbone whose every tensor came from the file (or from the seed, for `random:`).

    Attributes:
        module: on the CPU, float32, eval mode, no gradients.
        metadata: backbone name, normalisation, method, epoch, prefix and the rest of what is known of the weights.
        ref: what the user named, pinned where it was fetched: a path, `random:BACKBONE`, `hf:ORG/NAME@COMMIT`.
        sha256: of the file; for `random:` of the weights themselves (`pretrain.backbones.registry.fingerprint`).
        format: the format the file was recognised as; "random" for random initialisation.
        select, arch: what the user selected and said, so that the same decision can be taken again.
        described: SHA-256 of what the files beside it say (`Content.description`).
    """

    module: registry.Backbone
    metadata: BackboneMetadata
    ref: str
    sha256: str
    format: str
    select: str | None = None
    described: str | None = None
    arch: str | None = None


def load_backbone(
    ref: str | Path,
    *,
    select: str | None = None,
    normalization: str | Mapping[str, Any] | None = None,
    arch: str | None = None,
    seed: int = 0,
    tell: bool = True,
) -> LoadedBackbone:
    """Load a file, a folder, `hf:ORG/NAME`, `timm:MODEL`, an address, or `random:BACKBONE`. Nothing in it is run.

    Args:
        ref: a checkpoint of any known format (`evaluate.checkpoints.sources.references`), or `random:resnet50` for
            random initialisation drawn from `seed`.
        select: the prefix of the encoder to take where a file holds several.
        normalization: to use in place of the file's: name of a preset (`evaluate.checkpoints.normalizations.PRESETS`),
            or its `mean`, `std` and `channels`.
        arch: what is known of the architecture and stands in no shape: facts such as `num_heads=12`, or a whole model
            of timm's, `vit_small_patch16_224,num_heads=12`.
        tell: log what the file was recognised as, and its warnings.

    Raises:
        InputError: no such file, a format that is not known, or a trunk of which a single tensor is missing, has the
            wrong shape or is not finite; the message lists them all.
    """
    ref = str(ref)
    if ref.startswith(RANDOM):
        if select is not None:
            raise InputError(f"{ref} holds one backbone; there is nothing to select")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = registry.build(ref.removeprefix(RANDOM))
        metadata = BackboneMetadata(backbone=module.name, method="random", seed=seed)
        if arch is not None:
            raise InputError(f"{ref} names its architecture; there is nothing to say with --arch")
        if normalization is not None:
            metadata = metadata.model_copy(update={"normalization": preset(normalization)})
        return LoadedBackbone(_frozen(module), metadata, ref, registry.fingerprint(module), "random")
    with one_sentence(ref):
        found = analyse(ref, select=select, normalization=normalization, arch=arch)
        found.demand()
        metadata = metadata_of(found)
        module = registry.build(metadata.backbone, padding=metadata.padding, stride_in_1x1=metadata.stride_in_1x1)
        _fill(module, found)
        found.content.demand_unchanged()
    if tell:
        for warning in found.warnings:
            log.warning("%s: %s", readable(ref), warning)
        log.info(
            "%s: %s, %s from '%s' (%s)",
            readable(ref),
            found.format.name,
            metadata.backbone,
            found.prefix or "",
            found.why,
        )
    described = found.content.description()
    return LoadedBackbone(
        _frozen(module),
        metadata,
        found.ref,
        found.sha256,
        found.format.name,
        select=select,
        described=described,
        arch=arch,
    )


def canonical(found: Analysis) -> dict[str, torch.Tensor]:
    """The trunk as a state dict in our names, float32; counters as in the file, 0 where it has none."""
    tensors: dict[str, torch.Tensor] = {}
    counters = found.counters()
    for name, stored in found.tensors.items():
        tensors[name] = torch.from_numpy(stored.float32())
        if name.endswith("running_var"):
            counter = name.replace("running_var", COUNTER)
            held = counters.get(counter)
            tensors[counter] = torch.tensor(0) if held is None else held.torch().to(torch.int64).reshape(())
    return tensors


@torch.no_grad()
def _fill(module: registry.Backbone, found: Analysis) -> None:
    """Put the file's tensors into the backbone and prove, bit for bit, that they are what it now holds."""
    tensors = canonical(found)
    prefix = "model." if found.own is None and found.match is not None and module.name.startswith("timm:") else ""
    tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    held = module.state_dict()
    missing = sorted(name for name in held if name not in tensors and not name.endswith(COUNTER))
    unexpected = sorted(name for name in tensors if name not in held and not name.endswith(COUNTER))
    misshapen = sorted(name for name in held if name in tensors and held[name].shape != tensors[name].shape)
    if missing or unexpected or misshapen:
        parts = (("missing", missing), ("without a place", unexpected), ("of another shape", misshapen))
        said = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in parts if names)
        raise InputError(f"{found.content.path} does not fit {module.name} tensor for tensor: {said}")
    for name, parameter in held.items():
        if name in tensors:
            parameter.copy_(tensors[name])
    for name, tensor in module.state_dict().items():
        same = name not in tensors or torch.equal(_bits(tensor), _bits(tensors[name]))
        assert same, f"{name} of the loaded backbone is not the file's"


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _frozen(module: registry.Backbone) -> registry.Backbone:
    return module.eval().requires_grad_(False)
