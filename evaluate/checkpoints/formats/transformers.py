"""Formats of the papers that pretrain ViTs, Swins and ConvNeXts, each as its own repository saves it."""

from __future__ import annotations

from evaluate.checkpoints.formats.facts import HEAD, PREDICTOR, PROJECTOR, PROTOTYPES, QUEUE, Facts, Format, moving

MASK = (r"(.*\.)?(mask_token|masked_embed)$", "token of masked patches")
DECODER = (r"(decoder\w*|norm_pix\w*)(\.|$)", "decoder of the pixels")


def _vits(f: Facts) -> bool:
    return any(encoder.layout.kind == "vit" for encoder in f.encoders)


def _whole(f: Facts) -> bool:
    """Whether the only encoder has no prefix, wherever its table of tensors stands."""
    return [encoder.clean_prefix for encoder in f.encoders] == [""]


def _dinov2(f: Facts) -> bool:
    return _whole(f) and _vits(f) and f.has("mask_token") and f.has("blocks.0.ls1.", "blocks.0.0.ls1.")


def _masked_plain(f: Facts) -> bool:
    return _whole(f) and _vits(f) and f.has("mask_token") and not f.has("blocks.0.ls1.", "blocks.0.0.ls1.")


TRANSFORMERS: tuple[Format, ...] = (
    Format(
        "moco_v3_linear",
        "MoCo v3's linear evaluation",
        lambda f: f.under("arch", "state_dict") and not f.lightning and "meta" not in f.top and _whole(f) and _vits(f),
        "state_dict of a bare ViT beside arch",
        ("state_dict/",),
        "the frozen encoder under the classifier",
        (HEAD,),
    ),
    Format(
        "mae",
        "MAE",
        lambda f: _masked_plain(f) and (f.has("decoder_") or f.under("model")),
        "a ViT with mask_token, with its decoder or in a table called model",
        (r".*",),
        "the encoder",
        (DECODER, MASK, HEAD),
    ),
    Format(
        "ibot",
        "iBOT, extracted encoder",
        lambda f: _whole(f) and _vits(f) and f.has("masked_embed"),
        "a bare ViT with masked_embed",
        (r".*",),
        "the one encoder there is",
        (MASK, HEAD),
    ),
    Format(
        "masked_vit",
        "a ViT trained with masked patches",
        lambda f: _masked_plain(f) and not (f.has("decoder_") or f.under("model")),
        "a bare ViT with mask_token",
        (r".*",),
        "the one encoder there is",
        (MASK, HEAD),
        normalization=None,
    ),
    Format(
        "dinov2",
        "DINOv2, released encoder",
        _dinov2,
        "a bare ViT with layer scale and mask_token",
        (r".*",),
        "the one encoder there is",
        (MASK, HEAD),
    ),
    Format(
        "dinov2_training",
        "DINOv2 or DINOv3, teacher of a training",
        lambda f: f.under("teacher") and not f.under("student") and f.has("dino_head.", "ibot_head."),
        "teacher with backbone and heads, no student",
        (r"teacher/backbone\.",),
        "the teacher is evaluated",
        ((r"(dino_head|ibot_head)\.", "projection head"), MASK),
    ),
    Format(
        "dinov3",
        "DINOv3, released encoder",
        lambda f: _whole(f) and ("dinov3" in f.layouts or ("convnext, meta" in f.layouts and f.has("norms.3."))),
        "storage_tokens or rope_embed, or a ConvNeXt with norms",
        (r".*",),
        "class token after the last norm; of a ConvNeXt the mean",
        (MASK, HEAD, (r"norms\.", "the last norm under a second name"), (r"local_cls_norm\.", "norm of local crops"),
         (r"rope_embed\.|.*bias_mask$", "constants of the code")),
    ),
    Format(
        "ijepa",
        "I-JEPA",
        lambda f: f.under("encoder", "target_encoder", "predictor"),
        "encoder, predictor and target_encoder",
        (r"target_encoder/",),
        "the target encoder is evaluated, its patches averaged",
        ((r"encoder/", "the context encoder"), (r"predictor/", "predictor"), MASK),
    ),
    Format(
        "msn",
        "MSN",
        lambda f: f.under("encoder", "target_encoder") and "predictor" not in f.top,
        "encoder and target_encoder with prototypes",
        (r"target_encoder/",),
        "the target encoder is evaluated",
        ((r"encoder/", "the online encoder"), PROTOTYPES, (r"fc\.", "projection head")),
    ),
    Format(
        "beit",
        "BEiT, or a kin of it",
        lambda f: _whole(f) and "beit" in f.layouts and f.has("mask_token", "lm_head."),
        "relative positions or biases of q and v, and mask_token or lm_head",
        (r".*",),
        "the one encoder there is",
        (MASK, (r"lm_head\.", "head over visual tokens"), HEAD),
        normalization=None,
    ),
    Format(
        "simmim",
        "SimMIM",
        lambda f: f.under("model") and {"encoder."} == f.prefixes and f.has("decoder."),
        "model with encoder and decoder",
        (r"model/encoder\.",),
        "the encoder",
        (DECODER, MASK),
    ),
    Format(
        "moby",
        "MoBY",
        lambda f: f.under("model") and {"encoder.", "encoder_k."} <= f.prefixes and not f.under("opt"),
        "model with encoder and encoder_k",
        (r"model/encoder\.",),
        "the online encoder is evaluated",
        (moving(r"encoder_k\.", "momentum"), PROJECTOR, PREDICTOR, QUEUE),
    ),
)  # fmt: skip
