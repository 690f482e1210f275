"""Which of a file's encoders is used: what its format's paper evaluates, or what the user selects."""

from __future__ import annotations

import re
from collections.abc import Iterable

from evaluate.checkpoints.analysis import Analysis
from evaluate.checkpoints.limits import listed
from evaluate.checkpoints.states import Encoder
from pretrain.runtime.errors import InputError


def pick(found: Analysis, select: str | None) -> None:
    """Set `found.encoder`, or object where nothing decides.

    Raises:
        InputError: `select` names none of the encoders, or several.
    """
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
    every = found.facts.encoders
    # A whole label names one encoder even where it is the end of another's.
    chosen = [encoder for encoder in every if encoder.label == select]
    chosen = chosen or [encoder for encoder in every if _bare(select) in map(_bare, _names(encoder))]
    if len(chosen) != 1:
        said = "names no encoder" if not chosen else "names several encoders"
        raise InputError(f"--select '{select}' {said} of {found.content.path}; it holds: {_listed(every) or 'none'}")
    return chosen[0]


def _names(encoder: Encoder) -> tuple[str, ...]:
    """What an encoder may be called: as the file has it or without wrappers, with the path of its state dict or not."""
    return encoder.label, encoder.full_prefix, encoder.clean_prefix, encoder.prefix


def _bare(name: str) -> str:
    return name.rstrip("./")


def _listed(encoders: Iterable[Encoder]) -> str:
    return listed(encoder.label or "'' (no prefix)" for encoder in encoders)
