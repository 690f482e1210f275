"""From an opened file to a decision: which encoder, which backbone, which input, and all that speaks against it.

The decision is the same for `inspect`, which shows it, and for loading and converting, which refuse on any objection.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from evaluate.checkpoints.architectures import COUNTER, TRUNKS, Match, expected, match_resnet, match_vit
from evaluate.checkpoints.containers import Content, open_checkpoint
from evaluate.checkpoints.formats import OWN, Facts, Format, matching
from evaluate.checkpoints.normalizations import InputSpec, choose, read_neighbour
from evaluate.checkpoints.states import Encoder, constant, equal_encoders, find_encoders, find_states
from evaluate.checkpoints.tensors import FLOATS, StoredTensor
from pretrain.errors import InputError
from pretrain.files import sha256_of_file
from pretrain.handover import KEY as OUR_KEY
from pretrain.handover import BackboneMetadata

# torch's BatchNorm2d adds this to the variance: with it, variance 1 - eps makes a folded affine layer exact.
BN_EPS = 1e-5


@dataclass
class Analysis:
    """Everything that is known of a file.

    Attributes:
        formats: those that tell the file as their own.
        encoders: all of them, those with the same bits together.
        encoder: the one to use; None when it cannot be decided, and for a file of our own.
        tensors: torchvision's name -> tensor of the trunk, counters left out.
        objections: why the file cannot be loaded, each a sentence; empty for a file that can.
    """

    content: Content
    sha256: str
    facts: Facts
    formats: list[Format]
    encoders: list[list[Encoder]]
    input: InputSpec
    encoder: Encoder | None = None
    why: str = ""
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    match: Match | None = None
    own: BackboneMetadata | None = None
    objections: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def format(self) -> Format:
        """The format, the first of them where two match."""
        return self.formats[0]

    @property
    def prefix(self) -> str | None:
        """The chosen prefix as the file has it, after the path of its state dict."""
        if self.encoder is None:
            return None
        return "/".join(part for part in (self.encoder.state.path, self.encoder.prefix) if part)

    def counters(self) -> dict[str, StoredTensor]:
        """The trunk's `num_batches_tracked`, as far as the file has them."""
        everything = self.encoder.tensors() if self.encoder else {}
        return {name: tensor for name, tensor in everything.items() if name.endswith(COUNTER)}

    def demand(self) -> None:
        """Raises InputError with the first objection, if there is any."""
        if self.objections:
            raise InputError(f"{self.content.path}: {self.objections[0]}")


def analyse(path: Path, *, select: str | None = None, normalization: str | None = None) -> Analysis:
    """Read a file's structure and decide.

    Args:
        path: a file in any known container.
        select: prefix or label of the encoder to take, wrappers written or left out.
        normalization: name of a preset, where the file's own cannot be told or is known better.

    Raises:
        InputError: the file cannot be read at all, `select` names none of its encoders, or there is no such preset.
    """
    content = open_checkpoint(path)
    sha256 = sha256_of_file(path)
    states = find_states(content)
    encoders = find_encoders(states)
    top = frozenset(str(key) for key in content.root) if isinstance(content.root, dict) else frozenset()
    facts = Facts(content.container, top, content.header, tuple(states), tuple(encoders))
    own = _own_metadata(content)
    formats = [OWN] if own else matching(facts)
    spec = choose(
        content.path,
        sha256,
        given=normalization,
        stated=own.normalization if own else None,
        convention=formats[0].normalization if len(formats) == 1 else None,
        title=formats[0].title,
    )
    found = Analysis(content, sha256, facts, formats, equal_encoders(encoders), spec, own=own)
    if own:
        _take_own(found, own)
        if select:
            raise InputError(f"{path} holds one backbone; there is nothing to --select")
    else:
        _pick(found, select)
        if found.encoder is not None:
            _take(found, found.encoder)
    if found.tensors:
        _check_numbers(found)
    if spec.certainty == "assumed":
        found.warnings.append(f"normalisation is assumed to be ImageNet's: {spec.why}")
    return found


def metadata_of(found: Analysis) -> BackboneMetadata:
    """What a backbone file made of these weights says of itself. The file must have passed `Analysis.demand`."""
    assert found.match is not None
    assert found.match.backbone is not None
    if found.own is not None:
        return found.own.model_copy(update={"normalization": found.input.normalization})
    epoch, step = _progress(found.content.root)
    return BackboneMetadata(
        backbone=found.match.backbone,
        padding=found.format.padding,
        stride_in_1x1=found.format.stride_in_1x1,
        normalization=found.input.normalization,
        method=found.format.name,
        epoch=epoch,
        step=step,
        parent_sha256=found.sha256,
        prefix=found.prefix,
    )


# Which encoder -------------------------------------------------------------------------------------------------------


def _pick(found: Analysis, select: str | None) -> None:
    every = found.facts.encoders
    if select is not None:
        found.encoder = _selected(found, select)
        found.why = f"selected by --select {select}"
        return
    if not every:
        starts = sorted({name.split(".")[0] for state in found.facts.states for name in state.tensors})
        held = f"its tensors' names begin with {', '.join(starts[:12])}" if starts else "it holds no tensors"
        found.objections.append(f"no encoder in a known spelling: {held}")
        return
    if len(found.formats) > 1:
        names = " and ".join(row.name for row in found.formats)
        found.objections.append(f"formats {names} both match; say which encoder with --select: {_listed(every)}")
        return
    for pattern in found.format.evaluated:
        fitting = [encoder for encoder in every if re.fullmatch(pattern, encoder.label)]
        if fitting:
            _single(found, fitting, f"{found.format.title}: {found.format.because}")
            return
    _single(found, list(every), "the only encoder in the file")


def _single(found: Analysis, fitting: list[Encoder], why: str) -> None:
    groups = [group for group in found.encoders if any(encoder in fitting for encoder in group)]
    if len(groups) > 1:
        found.objections.append(
            f"it holds {len(groups)} different encoders and nothing says which is evaluated; "
            f"choose one with --select: {_listed(fitting)}"
        )
        return
    found.encoder, found.why = fitting[0], why


def _selected(found: Analysis, select: str) -> Encoder:
    wanted = select.removesuffix(".")

    def names(encoder: Encoder) -> set[str]:
        prefix = encoder.prefix
        full = f"{encoder.state.path}/{prefix}" if encoder.state.path else prefix
        return {name.removesuffix(".") for name in (encoder.label, encoder.clean_prefix, prefix, full)}

    chosen = [encoder for encoder in found.facts.encoders if wanted in names(encoder)]
    if len(chosen) != 1:
        said = "names no encoder" if not chosen else "names several encoders"
        raise InputError(
            f"--select '{select}' {said} of {found.content.path}; it holds: {_listed(found.facts.encoders) or 'none'}"
        )
    return chosen[0]


def _listed(encoders: Any) -> str:
    return ", ".join(encoder.label or "'' (no prefix)" for encoder in encoders)


# The trunk -----------------------------------------------------------------------------------------------------------


def _take(found: Analysis, encoder: Encoder) -> None:
    tensors = {name: tensor for name, tensor in encoder.tensors().items() if not name.endswith(COUNTER)}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if encoder.layout.kind == "vit":
        found.match = match_vit(shapes)
        if found.format.name == "moco_v3" and shapes["blocks.0.attn.qkv.weight"][1] == 384:
            # moco-v3 vits.py gives its ViT-S 12 heads; DINO's and timm's has 6, and shapes do not show it.
            found.match = Match(
                None, found.match.text, reason="MoCo v3's ViT-S has 12 heads, which no backbone here has"
            )
    elif encoder.layout.kind == "resnet":
        if encoder.layout.name == "caffe2":
            tensors |= _unfolded(found, tensors)
            shapes = {name: tensor.shape for name, tensor in tensors.items()}
        found.match = match_resnet(shapes)
    else:
        found.match = Match(None, "a deep stem", reason=encoder.layout.kind)
    if not found.match.fits and (name := _named_by_timm(found)) is not None:
        found.match = Match(f"timm:{name}", f"timm's {name}, by the config.json beside the file")
        tensors = {name: t for name, t in encoder.state.tensors.items() if not name.endswith(COUNTER)}
        tensors = {name: t for name, t in tensors.items() if not re.match(r"(fc|head\.fc|head|classifier)\.", name)}
    found.tensors = tensors
    found.objections += _objections(found.match)
    if found.format.name == "msra":
        found.warnings.append("its batch norm is folded: mean 0 and variance 1 stand for statistics that are not there")


def _take_own(found: Analysis, own: BackboneMetadata) -> None:
    found.why = "the file holds one backbone"
    found.tensors = {name: tensor for name, tensor in found.content.root.items() if not name.endswith(COUNTER)}
    if own.backbone in TRUNKS:
        table, shapes = expected(own.backbone), {name: tensor.shape for name, tensor in found.tensors.items()}
        found.match = Match(
            own.backbone,
            match_resnet(shapes).text,
            tuple(name for name in table if name not in shapes),
            tuple(f"{n} is {shapes[n]}, expected {s}" for n, s in table.items() if shapes.get(n, s) != s),
            tuple(name for name in shapes if name not in table),
        )
    else:
        found.match = Match(own.backbone, own.backbone)
    found.objections += _objections(found.match)


def _objections(match: Match) -> list[str]:
    said: list[str] = []
    if match.reason is not None:
        return [f"{match.reason} ({match.text})"]
    if match.missing:
        said.append(f"{len(match.missing)} tensors of {match.backbone} are missing: {', '.join(match.missing)}")
    if match.misshapen:
        said.append(
            f"{len(match.misshapen)} tensors do not have {match.backbone}'s shape: {'; '.join(match.misshapen)}"
        )
    if match.unexpected:
        said.append(
            f"{len(match.unexpected)} tensors of the trunk have no place in {match.backbone}, the closest backbone "
            f"({match.text}): {', '.join(match.unexpected)}"
        )
    return said


def _named_by_timm(found: Analysis) -> str | None:
    name = read_neighbour(found.content.path, "config.json").get("architecture")
    return name if found.format.name == "timm" and isinstance(name, str) else None


def _unfolded(found: Analysis, tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Statistics for a file whose batch norm is only scale and shift."""
    made: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        at, _, leaf = name.rpartition(".")
        if leaf == "bias" and f"{at}.running_mean" not in tensors and len(tensor.shape) == 1:
            made[f"{at}.running_mean"] = constant(tensor.shape[0], 0.0)
            made[f"{at}.running_var"] = constant(tensor.shape[0], 1.0 - BN_EPS)
    return made


def _check_numbers(found: Analysis) -> None:
    declared = sum(tensor.nbytes for tensor in found.tensors.values())
    if found.format.name != "msra" and declared > found.content.size_bytes:
        found.objections.append(f"its tensors declare {declared} bytes, more than the file is long: they share memory")
        return
    untrained = statistics = 0
    for name, tensor in found.tensors.items():
        if tensor.dtype not in FLOATS:
            found.objections.append(f"tensor {name} is of type {tensor.dtype}; expected floating point numbers")
            continue
        values = tensor.float32() if tensor.dtype in ("bfloat16", "float16") else tensor.array()
        if not np.isfinite(values).all():
            found.objections.append(f"tensor {name} holds NaN or infinity")
        if name.endswith("running_var"):
            statistics += 1
            if (values < 0).any():
                found.objections.append(f"tensor {name} holds a negative variance")
            mean = found.tensors.get(name.replace("running_var", "running_mean"))
            untrained += bool((values == 1).all() and mean is not None and not mean.array().any())
    if untrained:
        found.warnings.append(
            f"{untrained} of {statistics} batch norms have never seen an image: mean 0 and variance 1 everywhere"
        )
    if any(tensor.dtype == "float64" for tensor in found.tensors.values()):
        found.warnings.append("its float64 numbers are rounded to float32")


# What the file says of itself ----------------------------------------------------------------------------------------


def _own_metadata(content: Content) -> BackboneMetadata | None:
    if content.container != "safetensors" or not OWN.tells(Facts("", frozenset(), content.header, (), ())):
        return None
    try:
        return BackboneMetadata.model_validate(json.loads(content.header[OUR_KEY]))
    except (KeyError, ValueError, ValidationError):
        raise InputError(f"{content.path} says it is a backbone file of fastmoco, but its header is damaged") from None


def _progress(root: Any) -> tuple[int | None, int | None]:
    """Epoch and step as the file's top level (or mmengine's meta) gives them."""
    tables = [table for table in (root, root.get("meta")) if isinstance(table, dict)] if isinstance(root, dict) else []

    def number(*keys: str) -> int | None:
        return next((t[k] for t in tables for k in keys if type(t.get(k)) is int and t[k] >= 0), None)

    return number("epoch"), number("global_step", "step", "last_iter", "iter")
