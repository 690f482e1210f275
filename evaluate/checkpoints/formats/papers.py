"""Formats of the repositories that papers published their own code in."""

from __future__ import annotations

from evaluate.checkpoints.formats.facts import (
    HEAD,
    PREDICTOR,
    PROJECTOR,
    PROTOTYPES,
    QUEUE,
    Facts,
    Format,
    moving,
)


def _simsiam(f: Facts) -> bool:
    return (
        f.under("state_dict")
        and "meta" not in f.top
        and not f.lightning
        and f.has("encoder.fc.")
        and f.has("predictor.")
    )


def _zero_counters(f: Facts) -> bool:
    """SimCLR's conversion assigns trained statistics to a fresh network, whose counters stay 0."""
    encoder = f.encoders[0]
    counters = [t for name, t in encoder.tensors().items() if name.endswith("num_batches_tracked")]
    mean = encoder.tensors().get("bn1.running_mean")
    return (
        bool(counters)
        and not any(c.numel != 1 or c.array().any() for c in counters)
        and mean is not None
        and bool(mean.array().any())
    )


def _simclr_v1(f: Facts) -> bool:
    return (
        f.top == {"state_dict"}
        and [e.label for e in f.encoders] == ["state_dict/"]
        and f.has("fc.")
        and _zero_counters(f)
    )


PAPERS: tuple[Format, ...] = (
    Format(
        "fast_moco_public",
        "the public Fast-MoCo repository",
        lambda f: f.has("bbone_ema.", "encoder_ema.") and "meta" not in f.top and not f.lightning,
        "momentum encoder called bbone_ema or encoder_ema, children by number",
        (r"model/backbone\.", r"model/encoder\.0\."),
        "its linear evaluation takes the online backbone",
        (
            (r"encoder\.0\.", "the backbone under its second name"),
            (r"encoder\.1\.", "projection head"),
            moving(r"(bbone_ema|encoder_ema\.0)\.", "momentum"),
            (r"encoder_ema\.1\.", "projection head of the momentum encoder"),
            PREDICTOR,
        ),
    ),
    Format(
        "moco_v1",
        "MoCo v1",
        lambda f: "encoder_q." in f.prefixes and f.has("encoder_q.fc.weight") and not f.lightning,
        "encoder_q with a single fc",
        (r".*encoder_q\.",),
        "the query encoder is evaluated",
        (moving(r"encoder_k\.", "key"), QUEUE, (r"encoder_q\.fc\.", "projection head")),
    ),
    Format(
        "moco_v2",
        "MoCo v2",
        lambda f: "encoder_q." in f.prefixes and not f.has("encoder_q.fc.weight") and not f.lightning,
        "encoder_q with an fc of two layers",
        (r".*encoder_q\.",),
        "the query encoder is evaluated",
        (moving(r"encoder_k\.", "key"), QUEUE, (r"encoder_q\.fc\.", "projection head")),
    ),
    Format(
        "moco_v3",
        "MoCo v3",
        lambda f: "base_encoder." in f.prefixes and not f.lightning,
        "base_encoder and momentum_encoder",
        (r".*base_encoder\.",),
        "the base encoder is evaluated",
        (moving(r"momentum_encoder\.", "momentum"), PREDICTOR, (r"base_encoder\.(fc|head)\.", "projection head")),
    ),
    Format(
        "simsiam",
        "SimSiam",
        _simsiam,
        "state_dict with encoder (its fc the projector) and predictor",
        (r".*encoder\.",),
        "the one encoder there is",
        (PREDICTOR, (r"encoder\.fc\.", "projection head")),
    ),
    Format(
        "simclr_v1",
        "SimCLR v1, converted to torch",
        _simclr_v1,
        "only a state_dict of bare names with a classifier, BN statistics trained but BN counters all 0",
        ("state_dict/",),
        "the one encoder there is",
        (HEAD,),
        normalization="none",
    ),
    Format(
        "simclr_v2",
        "SimCLR v2, converted to torch",
        lambda f: "simclr_v2" in f.layouts,
        "names net.S.blocks.B.net.N",
        (r"resnet/", r".*"),
        "the one encoder there is; what was converted (EMA or not) stands in the file's name alone",
        (HEAD, (r"layers\.", "projection head")),
        normalization="none",
    ),
    Format(
        "byol",
        "BYOL of deepmind-research (Haiku)",
        lambda f: "haiku" in f.layouts,
        "Haiku's module names, block_group_0/~/block_0",
        (r".*online/.*", r".*"),
        "the online network is evaluated (byol_experiment, linear evaluation)",
        (
            (r"(.*/)?target(_params|_state)?/", "the target network: a running average of the online one"),
            (r".*(projector|predictor)", "projection head or predictor"),
            (r".*classifier", "classifier"),
            (r".*_ema/(hidden|counter)$", "bookkeeping of a moving average"),
        ),
        padding="same",
    ),
    Format(
        "swav",
        "SwAV, DeepCluster-v2 or SeLa-v2",
        lambda f: f.prototypes,
        "bare trunk with projection_head and prototypes",
        (r"(.*/)?",),
        "the one encoder there is",
        (PROJECTOR, PROTOTYPES),
        normalization="swav",
    ),
    Format(
        "dino",
        "DINO, iBOT or EsViT, full training file",
        lambda f: f.under("student", "teacher"),
        "student and teacher at the top level",
        (r"teacher/backbone\.", r"teacher/"),
        "the teacher is evaluated (dino, eval_linear: --checkpoint_key teacher)",
        (
            (r"student/backbone\.", "the student"),
            (r"(head|dino_head|ibot_head)\.", "projection head"),
            (r"backbone\.fc\.", "classifier"),
            (r"(backbone\.)?(masked_embed|mask_token)$", "token of masked patches"),
        ),
    ),
    Format(
        "barlow_twins",
        "Barlow Twins, training file",
        lambda f: f.under("model") and {"backbone."} <= f.prefixes and f.has("projector.") and f.has("bn.running_mean"),
        "model with backbone, projector and a BN over the embeddings",
        (r"model/backbone\.",),
        "the one encoder there is",
        (PROJECTOR, (r"bn\.", "BN over the embeddings")),
    ),
    Format(
        "vicreg",
        "VICReg or VICRegL, training file",
        lambda f: f.under("model") and {"backbone."} <= f.prefixes and f.has("projector.", "maps_projector.")
        and not f.has("bn.running_mean"),
        "model with backbone and projector",
        (r"model/backbone\.",),
        "the one encoder there is",
        (PROJECTOR,),
    ),
    Format(
        "pixpro",
        "PixPro",
        lambda f: f.under("opt", "model") and {"encoder.", "encoder_k."} <= f.prefixes,
        "opt and model with encoder and encoder_k",
        (r"model/encoder\.",),
        "the online encoder is evaluated",
        (moving(r"encoder_k\.", "momentum"), PROJECTOR, (r"value_transform\.", "propagation head")),
    ),
    Format(
        "pycontrast",
        "PyContrast (InfoMin, InsDis, PIRL, CMC)",
        lambda f: f.under("opt", "model", "contrast") and "encoder_k." not in f.prefixes,
        "opt, model and contrast",
        (r"model/encoder\.",),
        "the online encoder is evaluated; CMC's two encoders take L and ab, not RGB",
        (moving(r"model_ema/.*", "momentum"), (r"head\w*\.", "projection head")),
    ),
)  # fmt: skip
