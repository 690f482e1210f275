"""What is in a checkpoint file, which encoder would be used and why: JSON for scripts, `show` for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from evaluate.checkpoints.analyse import analyse
from evaluate.checkpoints.analysis import Analysis
from evaluate.checkpoints.architectures import COUNTER
from evaluate.checkpoints.families import match as match_family
from evaluate.checkpoints.formats import reason_to_drop
from evaluate.checkpoints.limits import one_sentence, readable
from evaluate.checkpoints.normalizations import InputSpec
from evaluate.checkpoints.states import Encoder, records


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Candidate(_Record):
    """An encoder in the file.

    Attributes:
        label: what `--select` takes: the path of its state dict and its prefix, wrappers left out.
        prefix: as the file has it.
        spelling: whose names it uses.
        architecture: in words, from the shapes.
        tensors, counters: how many tensors of the trunk it holds, `num_batches_tracked` apart.
        equal_to: labels of the encoders that hold the same bits.
    """

    label: str
    prefix: str
    spelling: str
    architecture: str
    tensors: int
    counters: int
    equal_to: tuple[str, ...]
    chosen: bool


class Dropped(_Record):
    """Tensors that are left out: those whose names begin alike, with the reason."""

    names: str
    tensors: int
    reason: str


class Inspection(_Record):
    """Everything that `fastmoco inspect` says of a file.

    Attributes:
        formats: the formats that tell the file as their own; more than one is an objection.
        told_by: how the first of them is told.
        chosen: prefix of the encoder that would be used, with the path of its state dict; None when undecided.
        backbone: name for `random:NAME` and the tables; None when no backbone here has this shape.
        objections: why the file is refused; empty when it loads.
        not_run: names of what the file wanted called, left inert.
    """

    path: str
    size_bytes: int
    sha256: str
    container: str
    formats: tuple[str, ...]
    title: str
    told_by: str
    candidates: tuple[Candidate, ...]
    chosen: str | None
    why: str
    backbone: str | None
    architecture: str | None
    padding: str
    stride_in_1x1: bool
    input: InputSpec
    dropped: tuple[Dropped, ...]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]
    unexpected: tuple[str, ...]
    objections: tuple[str, ...]
    warnings: tuple[str, ...]
    not_run: tuple[str, ...]
    loads: bool


def inspect_file(
    path: str | Path,
    *,
    select: str | None = None,
    normalization: str | Mapping[str, Any] | None = None,
    arch: str | None = None,
) -> Inspection:
    """Look into a file without loading it into a backbone; imports no torch.

    Args:
        path: whatever names a checkpoint (`evaluate.checkpoints.sources.references`).
        select: prefix of the encoder to take where the file holds several.
        normalization: name of a preset, or its values, to use in place of what the file says.
        arch: what is known of the architecture and stands in no shape (`load_backbone`).

    Raises:
        InputError: the file cannot be read at all, or `select`, `normalization` or `arch` name nothing. A file that
            can be read but not loaded is no error: its `objections` say why.
    """
    found = analyse(path, select=select, normalization=normalization, arch=arch)
    with one_sentence(path):
        return _told(path, found)


def _told(path: str | Path, found: Analysis) -> Inspection:
    match = found.match
    own = found.own
    return Inspection(
        path=readable(found.ref, 4096),
        size_bytes=found.content.size_bytes,
        sha256=found.sha256,
        container=found.content.container,
        formats=tuple(row.name for row in found.formats),
        title=found.format.title,
        told_by=found.format.told_by,
        candidates=tuple(_candidate(encoder, found) for encoder in found.facts.encoders),
        chosen="" if own else found.prefix,
        why=found.why,
        backbone=match.backbone if match and match.fits else None,
        architecture=match.text if match else None,
        padding=found.padding,
        stride_in_1x1=found.stride_in_1x1,
        input=found.input,
        dropped=_dropped(found),
        missing=match.missing if match else (),
        misshapen=match.misshapen if match else (),
        unexpected=match.unexpected if match else (),
        objections=tuple(found.objections),
        warnings=tuple(found.warnings),
        not_run=tuple(records(found.content.root)),
        loads=not found.objections,
    )


def _candidate(encoder: Encoder, found: Analysis) -> Candidate:
    tensors = encoder.tensors()
    shapes = {name: tensor.shape for name, tensor in tensors.items() if not name.endswith(COUNTER)}
    group = next(group for group in found.encoders if encoder in group)
    return Candidate(
        label=encoder.label,
        prefix=encoder.prefix,
        spelling=encoder.layout.name,
        architecture=match_family(encoder.layout.kind, shapes, encoder.layout.facts).text,
        tensors=len(shapes),
        counters=len(tensors) - len(shapes),
        equal_to=tuple(other.label for other in group if other is not encoder),
        chosen=encoder is found.encoder,
    )


def _dropped(found: Analysis) -> tuple[Dropped, ...]:
    if found.own is not None:
        return ()
    # (path and first segment, reason) -> how often each longer beginning occurs: many beginnings become one line.
    counts: dict[tuple[str, str], dict[str, int]] = {}
    chosen = found.encoder
    for state in found.facts.states:
        for name in state.tensors:
            ours = chosen is not None and state is chosen.state
            if chosen is not None and ours and chosen.owns(name):
                continue
            inside = name.removeprefix(chosen.clean_prefix) if chosen is not None and ours else name
            reason = reason_to_drop(found.format, state.path, name, inside) or _default_reason(found, state.path, name)
            separator = "/~/" if "/~/" in name else "."
            first, *more = name.split(separator)
            second = separator.join((first, *more[:1])) if len(more) > 1 else first
            above = f"{state.path}/" if state.path else ""
            starts = counts.setdefault((above + first, reason), {})
            starts[above + second] = starts.get(above + second, 0) + 1
    return tuple(
        Dropped(names=f"{next(iter(s)) if len(s) == 1 else first}.*", tensors=sum(s.values()), reason=reason)
        for (first, reason), s in counts.items()
    )


def _default_reason(found: Analysis, path: str, name: str) -> str:
    for encoder in found.facts.encoders:
        if encoder.state.path == path and name.startswith(encoder.clean_prefix) and encoder is not found.encoder:
            return "another encoder" if encoder.owns(name) else "no part of a trunk"
    return "no part of the trunk"
