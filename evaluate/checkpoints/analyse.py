"""From an opened file to a decision: which encoder, which backbone, which input, and all that speaks against it.

The decision is the same for `inspect`, which shows it, and for loading and converting, which refuse on any objection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evaluate.checkpoints.analysis import Analysis
from evaluate.checkpoints.choice import pick
from evaluate.checkpoints.containers import Content
from evaluate.checkpoints.formats import OWN, Facts, matching
from evaluate.checkpoints.limits import one_sentence, readable
from evaluate.checkpoints.normalizations import choose, sensible
from evaluate.checkpoints.sources.folders import open_checkpoint
from evaluate.checkpoints.sources.references import locate
from evaluate.checkpoints.stated import given
from evaluate.checkpoints.states import equal_encoders, find_encoders, find_states, subclass_of_tensor
from evaluate.checkpoints.trunk import check_numbers, take, take_own
from pretrain.backbones.handover import KEY as OUR_KEY
from pretrain.backbones.handover import BackboneMetadata
from pretrain.runtime.errors import InputError

# Under this key converted files carry the metadata of their weights, where their layout has room for it.
CONVERTED = "fastmoco"
PADDINGS = ("symmetric", "same", "wide_stem")
# Epochs and steps stay below this, as the columns of the tables do.
COUNTS = 2**53


def analyse(
    ref: str | Path,
    *,
    select: str | None = None,
    normalization: str | Mapping[str, Any] | None = None,
    sha256: str | None = None,
    arch: str | None = None,
) -> Analysis:
    """Read a file's structure and decide.

    Args:
        ref: whatever names a checkpoint (`evaluate.checkpoints.sources.references`): a file in any known container,
            a folder, a repository of the hub, an address.
        select: prefix or label of the encoder to take, wrappers written or left out.
        normalization: name of a preset or its values, where the file's own cannot be told or is known better.
        sha256: of the file, where somebody has just read all of it for that.
        arch: what is known of the architecture and stands in no shape: `MODEL`, `MODEL,KEY=VALUE` or `KEY=VALUE`.

    Raises:
        InputError: the file cannot be read at all, `select` names none of its encoders, there is no such preset, or
            `arch` is nothing of the kind.
    """
    with one_sentence(ref):
        located = locate(ref)
        content = open_checkpoint(located.path)
        content = replace(content, beside=located.beside | content.beside)
        found = _decide(content, sha256 or content.sha256(), select, normalization, arch)
        content.demand_unchanged()
        found.ref = located.ref
        return found


def _decide(
    content: Content,
    sha256: str,
    select: str | None,
    normalization: str | Mapping[str, Any] | None,
    arch: str | None,
) -> Analysis:
    states = find_states(content)
    encoders = find_encoders(states)
    top = (
        frozenset(key for key in content.root if isinstance(key, str))
        if isinstance(content.root, dict)
        else frozenset()
    )
    facts = Facts(content.container, top, content.header, tuple(states), tuple(encoders))
    given(arch)
    own = _own_metadata(content)
    stated = own or _converted(content)
    formats = [OWN] if own else matching(facts)
    spec = choose(
        content.path,
        sha256,
        given=normalization,
        stated=stated.normalization if stated else None,
        convention=formats[0].normalization if len(formats) == 1 else None,
        title=formats[0].title,
        beside=content.beside,
    )
    found = Analysis(
        content, sha256, facts, formats, equal_encoders(encoders, content.unpacked_bytes), spec, own=own, stated=stated
    )
    if own:
        take_own(found, own)
        if select:
            raise InputError(f"{content.path} holds one backbone; there is nothing to --select")
        if arch:
            raise InputError(f"{content.path} says that it is a {own.backbone}; there is nothing to say with --arch")
    else:
        pick(found, select)
        if found.encoder is not None:
            take(found, found.encoder, arch)
    if found.tensors:
        check_numbers(found)
    if found.objections and (kind := subclass_of_tensor(content.root)) is not None:
        found.objections.insert(0, _not_plain(kind))
    if spec.certainty == "assumed":
        found.warnings.append(f"normalisation is assumed to be ImageNet's: {spec.why}")
    return found


def _not_plain(kind: str) -> str:
    if kind.endswith(("DTensor", "ShardedTensor")):
        return (
            f"it holds one rank's shards ({kind}), no whole tensors: save a full state dict, or save the shards with "
            "torch.distributed.checkpoint, whose folders are read here"
        )
    return f"it holds tensors of class {kind}, which are not read: save plain tensors (dequantised)"


def metadata_of(found: Analysis) -> BackboneMetadata:
    """What a backbone file made of these weights says of itself. The file must have passed `Analysis.demand`."""
    assert found.match is not None
    assert found.match.backbone is not None
    if found.own is not None:
        return found.own.model_copy(update={"normalization": found.input.normalization})
    if found.stated is not None and found.stated.backbone == found.match.backbone:
        return found.stated.model_copy(
            update={"normalization": found.input.normalization, "parent_sha256": found.sha256, "prefix": found.prefix}
        )
    epoch, step = _progress(found.content.root)
    return BackboneMetadata(
        backbone=found.match.backbone,
        padding=found.padding,
        stride_in_1x1=found.stride_in_1x1,
        normalization=found.input.normalization,
        method=found.format.name,
        epoch=epoch,
        step=step,
        parent_sha256=found.sha256,
        prefix=found.prefix,
    )


def _own_metadata(content: Content) -> BackboneMetadata | None:
    if content.container != "safetensors" or not OWN.tells(Facts("", frozenset(), content.header, (), ())):
        return None
    try:
        return _sensible(BackboneMetadata.model_validate(json.loads(content.header[OUR_KEY])))
    except (KeyError, ValueError, RecursionError):
        raise InputError(f"{content.path} says it is a backbone file of fastmoco, but its header is damaged") from None


def _converted(content: Content) -> BackboneMetadata | None:
    """What `evaluate.checkpoints.export` wrote beside the weights; None for everybody else's files."""
    root = content.root if isinstance(content.root, dict) else {}
    meta = root.get("meta")
    said = content.header.get(CONVERTED) or root.get(CONVERTED) or (isinstance(meta, dict) and meta.get(CONVERTED))
    if not isinstance(said, str):
        return None
    try:
        return _sensible(BackboneMetadata.model_validate_json(said))
    except ValueError:
        raise InputError(f"{content.path} says that fastmoco converted it, but what it says is damaged") from None


def _sensible(metadata: BackboneMetadata) -> BackboneMetadata:
    """The same, if it is what we could have written. Raises ValueError: it goes into rows and onto terminals."""
    values = metadata.model_dump()
    texts = [value for value in values.values() if isinstance(value, str)]
    counts = [value for value in values.values() if type(value) is int]
    if any(readable(text) != text for text in texts) or any(abs(count) >= COUNTS for count in counts):
        raise ValueError("texts or counts that nobody wrote")
    if not sensible(metadata.normalization) or metadata.padding not in PADDINGS:
        raise ValueError("no normalisation or padding that there is")
    return metadata


def _progress(root: Any) -> tuple[int | None, int | None]:
    """Epoch and step as the file's top level (or mmengine's meta) gives them."""
    tables = [table for table in (root, root.get("meta")) if isinstance(table, dict)] if isinstance(root, dict) else []

    def number(*keys: str) -> int | None:
        return next((t[k] for t in tables for k in keys if type(t.get(k)) is int and 0 <= t[k] < COUNTS), None)

    return number("epoch"), number("global_step", "step", "last_iter", "iter")
