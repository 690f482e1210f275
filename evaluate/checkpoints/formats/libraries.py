"""Formats of libraries that hand out backbones, and our own."""

from __future__ import annotations

from evaluate.checkpoints.formats.facts import HEAD, Facts, Format
from pretrain.backbones.handover import KEY as OUR_KEY

OWN = Format(
    "fastmoco",
    "fastmoco's own backbone.safetensors",
    lambda f: OUR_KEY in f.header,
    "the header of a safetensors file",
    ("",),
    "the file holds one backbone",
)


# Spellings that belong to one library, and tensors that belong to one paper's files: no other format claims these.
def _told_apart(f: Facts) -> bool:
    return any(name.startswith(_LIBRARY_SPELLINGS) for name in f.layouts) or f.has("mask_token", "masked_embed")


_LIBRARY_SPELLINGS = ("huggingface", "torchvision ", "clip", "dinov3", "haiku", "caffe2", "detectron2", "simclr_v2")


def _huggingface(spelling: str, title: str, normalization: str | None, *, exact: bool = False) -> Format:
    return Format(
        spelling.replace(" ", "_"),
        f"Hugging Face {title}",
        lambda f: any(name == spelling or (not exact and name.startswith(spelling)) for name in f.layouts),
        "the names of transformers, and the config.json beside it for what shapes do not tell",
        (r".*",),
        "the one encoder there is",
        (
            HEAD,
            (r"pooler\.dense\.", "pooler: its output is no feature of the papers"),
            (r"(.*\.)?mask_token$", "token of masked patches"),
            (
                r"(decoder|text_model|visual_projection|text_projection|logit_scale|logit_bias)\b",
                "not the image encoder",
            ),
        ),
        normalization=normalization,
    )


LIBRARIES: tuple[Format, ...] = (
    _huggingface("huggingface vit", "ViT, DeiT, MAE, MSN or I-JEPA", None),
    _huggingface("huggingface beit", "BEiT or data2vec", None),
    _huggingface("huggingface dinov2", "DINOv2, with registers or without", "imagenet"),
    _huggingface("huggingface dinov3", "DINOv3, ViT or ConvNeXt", "imagenet"),
    _huggingface("huggingface tower", "CLIP or SigLIP, the image tower", None),
    _huggingface("huggingface convnext", "ConvNeXt, v1 or v2", "imagenet"),
    _huggingface("huggingface swin", "Swin, v1 or v2", "imagenet"),
    Format(
        "torchvision_models",
        "torchvision's ViT, Swin or ConvNeXt",
        lambda f: any(name.startswith("torchvision ") for name in f.layouts) and f.bare,
        "torchvision's names of these models",
        ("",),
        "the file holds one network",
        (HEAD, (r"heads\.|head\.|classifier\.", "classifier")),
    ),
    Format(
        "clip",
        "CLIP or open_clip, the image tower",
        lambda f: "clip" in f.layouts,
        "names transformer.resblocks under visual",
        (r".*visual\.", r".*"),
        "the class token before the projection into the space shared with text",
        (
            (r"(transformer|token_embedding|positional_embedding|ln_final|text_projection|text)\b", "text encoder"),
            (r"logit_(scale|bias)$", "scale of the loss"),
            (r"(visual\.)?proj$", "projection into the space shared with text"),
            (r"(input_resolution|context_length|vocab_size)$", "sizes of the whole model"),
        ),
        normalization="clip",
    ),
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
        lambda f: f.bare and f.container != "safetensors" and f.has("fc.") and not f.prototypes and not _told_apart(f),
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
        and not _told_apart(f),
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
        and not _told_apart(f) and not f.prototypes,
        "flat safetensors file of bare names",
        ("",),
        "the file holds one network",
        (HEAD,),
        normalization=None,
    ),
)  # fmt: skip
