"""What is known of a file: filled in step by step by `analyse`, read by whoever shows, loads or converts it."""

from __future__ import annotations

from dataclasses import dataclass, field

from evaluate.checkpoints.architectures import COUNTER, Match
from evaluate.checkpoints.containers import Content
from evaluate.checkpoints.formats import Facts, Format
from evaluate.checkpoints.normalizations import InputSpec
from evaluate.checkpoints.states import Encoder
from evaluate.checkpoints.tensors import StoredTensor
from pretrain.backbones.handover import BackboneMetadata
from pretrain.runtime.errors import InputError


@dataclass
class Analysis:
    """Everything that is known of a file.

    Attributes:
        ref: what was named, pinned (`evaluate.checkpoints.sources.references.Located`).
        formats: those that tell the file as their own.
        encoders: all of them, those with the same bits together.
        encoder: the one to use; None when it cannot be decided, and for a file of our own.
        tensors: torchvision's name -> tensor of the trunk, counters left out.
        own: what the header of a file of our own says.
        stated: what a file that `fastmoco convert` wrote for another library says of itself.
        objections: why the file cannot be loaded, each a sentence; empty for a file that can.
    """

    content: Content
    sha256: str
    facts: Facts
    formats: list[Format]
    encoders: list[list[Encoder]]
    input: InputSpec
    ref: str = ""
    encoder: Encoder | None = None
    why: str = ""
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    match: Match | None = None
    own: BackboneMetadata | None = None
    stated: BackboneMetadata | None = None
    objections: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def format(self) -> Format:
        """The format, the first of them where two match."""
        return self.formats[0]

    @property
    def prefix(self) -> str | None:
        """The chosen prefix as the file has it, after the path of its state dict."""
        return None if self.encoder is None else self.encoder.full_prefix

    @property
    def padding(self) -> str:
        """How the backbone pads (`pretrain.backbones.registry.build`)."""
        if (says := self.own or self.stated) is not None:
            return says.padding
        small = self.match is not None and self.match.backbone is not None and self.match.backbone.endswith("_cifar")
        return self.format.small_stem_padding if small else self.format.padding

    @property
    def stride_in_1x1(self) -> bool:
        """Whether bottleneck blocks have their stride on the first 1x1 convolution."""
        if (says := self.own or self.stated) is not None:
            return says.stride_in_1x1
        if self.format.name == "huggingface":
            return bool(self.content.beside.get("config.json", {}).get("downsample_in_bottleneck", False))
        return self.format.stride_in_1x1

    def counters(self) -> dict[str, StoredTensor]:
        """The trunk's `num_batches_tracked`, as far as the file has them."""
        everything = self.encoder.tensors() if self.encoder else self.content.root if self.own else {}
        return {name: tensor for name, tensor in everything.items() if name.endswith(COUNTER)}

    def demand(self) -> None:
        """Raises InputError with the first objection, if there is any."""
        if self.objections:
            raise InputError(f"{self.content.path}: {self.objections[0]}")
