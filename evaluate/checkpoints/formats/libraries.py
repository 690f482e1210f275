"""Formats of libraries that hand out backbones, and our own."""

from __future__ import annotations

from evaluate.checkpoints.formats.facts import HEAD, Format
from pretrain.backbones.handover import KEY as OUR_KEY

OWN = Format(
    "fastmoco",
    "fastmoco's own backbone.safetensors",
    lambda f: OUR_KEY in f.header,
    "the header of a safetensors file",
    ("",),
    "the file holds one backbone",
)

LIBRARIES: tuple[Format, ...] = (
    Format(
        "huggingface",
        "Hugging Face ResNet",
        lambda f: "huggingface" in f.layouts,
        "names embedder.embedder.convolution and encoder.stages",
        (r".*",),
        "the one encoder there is",
        (HEAD,),
    ),
    Format(
        "detectron2",
        "detectron2",
        lambda f: "detectron2" in f.layouts,
        "names stem.conv1 and res2 to res5",
        (r".*",),
        "the one encoder there is",
        (HEAD, (r"(proposal_generator|roi_heads)\.", "detection heads"), (r"backbone\.fpn_", "feature pyramid")),
        normalization=None,
        stride_is_a_guess=True,
    ),
    Format(
        "msra",
        "MSRA or Caffe2 pickle",
        lambda f: "caffe2" in f.layouts,
        "Caffe2's blob names, res2_0_branch2a_w",
        (r".*",),
        "the one encoder there is",
        (
            (r"(fc1000|pred)_[wb]$", "classifier"),
            (r"conv1_b$", "bias of the first convolution, which detectron2 leaves out too"),
            (r".*_momentum$", "state of the optimizer"),
        ),
        normalization="msra_bgr",
        stride_in_1x1=True,
    ),
    Format(
        "torchvision",
        "a flat file in torchvision's names with a classifier",
        lambda f: f.bare and f.container != "safetensors" and f.has("fc.") and not f.prototypes,
        "bare names at the top level and fc",
        ("",),
        "the file holds one network",
        (HEAD,),
        normalization=None,
    ),
    Format(
        "backbone_only",
        "a flat file of a backbone (Barlow Twins, VICReg, DINO, extracted SwAV and others publish such files)",
        lambda f: f.bare and f.container != "safetensors" and not f.has("fc.") and not f.prototypes
        and not f.layouts & {"haiku", "caffe2", "detectron2", "huggingface", "simclr_v2"},
        "bare names at the top level, no fc",
        ("",),
        "the file holds one backbone",
        (HEAD,),
        normalization=None,
    ),
    Format(
        "timm",
        "timm",
        lambda f: f.bare and f.container == "safetensors" and OUR_KEY not in f.header
        and not f.layouts & {"huggingface", "detectron2"} and not f.prototypes,
        "flat safetensors file of bare names",
        ("",),
        "the file holds one network",
        (HEAD,),
        normalization=None,
    ),
)  # fmt: skip
