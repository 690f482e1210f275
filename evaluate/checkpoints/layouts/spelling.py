"""What a spelling of an encoder is, and the steps by which several spellings become timm's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from evaluate.checkpoints.tensors import StoredTensor, joined, reshaped

Rename = Callable[[str], str | None]
Tensors = dict[str, StoredTensor]


@dataclass(frozen=True)
class Layout:
    """One spelling.

    Attributes:
        anchors: names that every encoder in this spelling holds, after its prefix.
        rename: gives our name for the name after the encoder's prefix, or None for what is no part of the trunk (a
            head). Where a name belongs to the trunk but has no place in it, it is passed through, and the trunk is
            refused for it.
        kind: the family of the architecture (`evaluate.checkpoints.families`), or why no backbone here can take it.
        transposed: kernels are stored HWIO (Haiku) instead of OIHW.
        unless: names of which an encoder in this spelling holds none.
        assemble: what is done to the renamed tensors where names alone do not do.
        facts: what the code of this spelling fixes and no shape shows, as arguments of timm's model.
        read: the same, where the file's own tensors tell it; gets clean names after the prefix.
    """

    name: str
    anchors: tuple[str, ...]
    rename: Rename
    kind: str = "resnet"
    transposed: bool = False
    unless: tuple[str, ...] = ()
    assemble: Callable[[Tensors], Tensors] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[Tensors], dict[str, Any]] | None = None


def table(*rows: tuple[str, str | None], keep: str = r"(?!)") -> Rename:
    """A `rename` of patterns that must match from the first to the last letter, the first that does counting.

    Args:
        rows: pattern -> our name (`\\1` for a group, `{1+1}` for a number one higher) or None for what is left out.
        keep: pattern of names that are part of the trunk without being in the table; anything else is left out.
    """
    compiled = [(re.compile(pattern), name) for pattern, name in rows]

    def rename(name: str) -> str | None:
        for pattern, ours in compiled:
            if found := pattern.fullmatch(name):
                if ours is None:
                    return None
                number = re.search(r"\{(\d)\+1\}", ours)
                raised = ours if number is None else ours.replace(number[0], str(int(found[int(number[1])]) + 1))
                return found.expand(raised)
        return name if re.match(keep, name) else None

    return rename


def one_qkv(tensors: Tensors) -> Tensors:
    """`attn.q`, `attn.k` and `attn.v` of each block as one `attn.qkv`; a bias of q and v alone as timm's two."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        found = re.fullmatch(r"(.*attn\.)([qkv])\.(weight|bias)", name)
        if found is None or "attn_pool" in name:
            out[name] = tensor
            continue
        at, part, leaf = found.groups()
        three = [tensors.get(f"{at}{each}.{leaf}") for each in "qkv"]
        whole = [each for each in three if each is not None]
        if len(whole) == 3:
            out[f"{at}qkv.{leaf}"] = joined(*whole)
        elif leaf == "bias" and three[1] is None and len(whole) == 2:
            out[f"{at}{part}_bias"] = tensor
        else:
            out[name] = tensor  # it has no place, and is named
    return out


def split_bias(tensors: Tensors) -> Tensors:
    """`attn.qkv.bias` as timm's `q_bias` and `v_bias`: for attention that holds the bias of its keys at zero."""
    out: Tensors = {}
    for name, tensor in tensors.items():
        if not name.endswith("attn.qkv.bias") or len(tensor.shape) != 1 or tensor.shape[0] % 3:
            out[name] = tensor
            continue
        width = tensor.shape[0] // 3
        at = name.removesuffix("qkv.bias")
        for index, part in ((0, "q_bias"), (2, "v_bias")):
            out[at + part] = rows(tensor, index * width, width)
    return out


def rows(tensor: StoredTensor, start: int, count: int) -> StoredTensor:
    """Some of a tensor along its first axis."""
    return replace(tensor, shape=(count, *tensor.shape[1:]), offset=tensor.offset + start * tensor.strides[0])


def tokens(tensors: Tensors) -> Tensors:
    """Class token as (1, 1, D), positions as (1, L, D), where they are stored flat."""
    out = dict(tensors)
    for name in ("cls_token", "pos_embed", "attn_pool.latent"):
        tensor = out.get(name)
        if tensor is not None and 0 < len(tensor.shape) < 3:
            out[name] = reshaped(tensor, *((1, 1) if len(tensor.shape) == 1 else (1,)), *tensor.shape)
    return out


def steps(*each: Callable[[Tensors], Tensors]) -> Callable[[Tensors], Tensors]:
    """One `assemble` of several."""

    def all_of_them(tensors: Tensors) -> Tensors:
        for step in each:
            tensors = step(tensors)
        return tensors

    return all_of_them


def flat(names: Iterable[str]) -> Callable[[Tensors], Tensors]:
    """Vectors that are stored as (1, .., C, .., 1): those whose names end so."""
    ends = tuple(names)

    def step(tensors: Tensors) -> Tensors:
        return {n: reshaped(t, t.numel) if n.endswith(ends) and len(t.shape) != 1 else t for n, t in tensors.items()}

    return step
