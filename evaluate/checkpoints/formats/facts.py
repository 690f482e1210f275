"""What a format is told by, what a row of the tables says, and what rows drop alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from evaluate.checkpoints.states import Encoder, StateDict


@dataclass(frozen=True)
class Facts:
    """What a format is told by.

    Attributes:
        container: see `evaluate.checkpoints.containers.Content`.
        top: the keys at the file's top level.
        header: a safetensors file's own text pairs.
    """

    container: str
    top: frozenset[str]
    header: dict[str, str]
    states: tuple[StateDict, ...]
    encoders: tuple[Encoder, ...]

    @cached_property
    def prefixes(self) -> frozenset[str]:
        """The clean prefixes of all encoders."""
        return frozenset(encoder.clean_prefix for encoder in self.encoders)

    @cached_property
    def layouts(self) -> frozenset[str]:
        """The spellings of all encoders."""
        return frozenset(encoder.layout.name for encoder in self.encoders)

    def has(self, *starts: str) -> bool:
        """Whether any tensor's clean name begins with one of `starts`."""
        return any(name.startswith(starts) for state in self.states for name in state.tensors)

    def under(self, *keys: str) -> bool:
        """Whether the file's top level holds all of `keys`."""
        return self.top.issuperset(keys)

    @property
    def lightning(self) -> bool:
        """Whether PyTorch Lightning wrote the file."""
        return self.under("state_dict", "pytorch-lightning_version")

    @property
    def bare(self) -> bool:
        """Whether the only encoder has no prefix and stands at the file's top level."""
        return [encoder.label for encoder in self.encoders] == [""]

    @property
    def prototypes(self) -> bool:
        """Whether prototypes and a projection head stand beside a bare trunk (SwAV and its kin)."""
        return "" in self.prefixes and self.has("prototypes.") and self.has("projection_head.")


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        title: what wrote it.
        tells: whether a file is of this format; formats exclude each other.
        told_by: the same in words.
        evaluated: patterns of encoder labels, in the order of preference; the first that is there is taken.
        because: why that one.
        drops: pattern of a clean name -> why it is left out.
        normalization: name of the preset its training used; None where the names cannot tell.
        padding, small_stem_padding: of the backbone (`pretrain.backbones.registry.build`); the second where its stem is
            3x3.
        stride_in_1x1: where the stride of its bottleneck blocks stands.
        stride_is_a_guess: the names cannot tell where it stands.
        facts: what its code fixes and no shape shows, as arguments of timm's model (heads, pooling).
    """

    name: str
    title: str
    tells: Callable[[Facts], bool]
    told_by: str
    evaluated: tuple[str, ...]
    because: str
    drops: tuple[tuple[str, str], ...] = ()
    normalization: str | None = "imagenet"
    padding: str = "symmetric"
    small_stem_padding: str = "symmetric"
    stride_in_1x1: bool = False
    stride_is_a_guess: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)


HEAD = (r"(fc|head|heads|linear|classifier)\.", "classifier or projection on top of the trunk")
PROJECTOR = (r"(projector|projection_head|projection|neck|global_projector|maps_projector)\w*\.", "projection head")
PREDICTOR = (r"(predictor|prediction_head|classification_head)\w*\.", "predictor")
QUEUE = (r"\w*queue\w*", "queue of keys")
PROTOTYPES = (r"prototypes\.", "prototypes")
ONLINE_PROBE = (r"(online_classifier|classifier|callbacks_\w+|knn\w*)\.", "probe trained beside the encoder")


def moving(prefix: str, name: str) -> tuple[str, str]:
    """Drops an encoder that is a running average of another."""
    return prefix, f"the {name} encoder: its running average"
