"""Formats of frameworks that hold many methods: OpenMMLab, VISSL and those that PyTorch Lightning saves for."""

from __future__ import annotations

from evaluate.checkpoints.formats.facts import (
    HEAD,
    ONLINE_PROBE,
    PREDICTOR,
    PROJECTOR,
    PROTOTYPES,
    QUEUE,
    Facts,
    Format,
    moving,
)


def _mm(f: Facts) -> bool:
    return f.under("meta", "state_dict") and not f.lightning


# 1.x has no second name of the online encoder, and its encoder_k.module.0 reads as encoder_k.0 once wrappers are gone.
_MM_TWINS = frozenset({"encoder_q.0.", "online_net.0."})


def _lightning_other(f: Facts) -> bool:
    return f.lightning and not (_solo(f) or _lightly(f) or _spt(f))


def _spt(f: Facts) -> bool:
    return f.lightning and (
        f.has("callbacks_modules.", "callbacks_metrics.")
        or bool(f.prefixes & {"backbone.teacher.", "backbone.student."})
    )


_LIGHTLY = frozenset({"key_backbone.", "teacher_backbone.", "student_backbone.", "backbone_momentum."})


def _lightly(f: Facts) -> bool:
    return f.lightning and not _spt(f) and (f.has("online_classifier.") or bool(f.prefixes & _LIGHTLY))


def _solo(f: Facts) -> bool:
    return (
        f.lightning
        and not _spt(f)
        and not _lightly(f)
        and f.has("classifier.", "momentum_backbone.", "momentum_encoder.")
    )


FRAMEWORKS: tuple[Format, ...] = (
    Format(
        "openselfsup",
        "OpenSelfSup, DenseCL or mmselfsup 0.x, training file",
        lambda f: _mm(f) and bool(f.prefixes & _MM_TWINS),
        "meta and state_dict, encoders as pairs of backbone and neck (encoder_q.0)",
        (r"state_dict/backbone\.", r"state_dict/(encoder_q|online_net)\.0\."),
        "the backbone is what its extraction script keeps",
        (
            (r"(encoder_q|online_net)\.0\.", "the backbone under its second name"),
            moving(r"(encoder_k|target_net)\.0\.", "key or target"),
            (r"(encoder_q|encoder_k|online_net|target_net)\.1\.", "neck"),
            PROJECTOR,
            HEAD,
            QUEUE,
        ),
    ),
    Format(
        "mmpretrain",
        "mmpretrain or mmselfsup 1.x; OpenSelfSup's methods that have one encoder",
        lambda f: _mm(f) and not f.prefixes & _MM_TWINS,
        "meta and state_dict with backbone",
        (r"state_dict/backbone\.", r"state_dict/"),
        "the backbone is what its extraction script keeps",
        (
            moving(r"(encoder_k|target_net|momentum_encoder)\.", "momentum"),
            PROJECTOR,
            HEAD,
            QUEUE,
            (r"data_preprocessor\.", "mean and std of the input"),
        ),
    ),
    Format(
        "mm_extracted",
        "mmselfsup, extracted backbone",
        lambda f: f.under("state_dict", "author"),
        "state_dict of bare names and author",
        (r"state_dict/",),
        "the file holds one backbone",
        (HEAD,),
    ),
    Format(
        "vissl",
        "VISSL",
        lambda f: "_feature_blocks." in f.prefixes,
        "names that begin with _feature_blocks",
        (r".*trunk/_feature_blocks\.", r".*_feature_blocks\."),
        "the trunk",
        (moving(r"moco_encoder\.", "momentum"), HEAD, (r"\d+\.", "head")),
    ),
    Format(
        "solo_learn",
        "solo-learn",
        _solo,
        "Lightning file with backbone (old files: encoder) and classifier",
        (r"state_dict/backbone\.", r"state_dict/encoder\."),
        "the online backbone is evaluated",
        (moving(r"momentum_(backbone|encoder)\.", "momentum"), ONLINE_PROBE, PROJECTOR, PREDICTOR, QUEUE, PROTOTYPES,
         (r"momentum_(projector|classifier)\.", "head of the momentum encoder")),
        small_stem_padding="wide_stem",
    ),
    Format(
        "lightly",
        "lightly, benchmark file",
        _lightly,
        "Lightning file with backbone and online_classifier, or a second backbone under lightly's names",
        (r"state_dict/backbone\.",),
        "backbone is evaluated (in its DINO backbone is the teacher, student_backbone the student)",
        (
            (r"student_backbone\.", "the student"),
            moving(r"(key_backbone|teacher_backbone|backbone_momentum)\.", "momentum"),
            ONLINE_PROBE,
            PROJECTOR,
            PREDICTOR,
            PROTOTYPES,
            (r"(\w+_)?(projection|prediction)\w*\.|(student|teacher|key)_\w*head\w*\.", "projection head"),
            (r"criterion\.", "state of the loss"),
        ),
    ),
    Format(
        "stable_pretraining",
        "stable-pretraining",
        _spt,
        "Lightning file with callbacks' modules, or backbone.teacher and backbone.student",
        (r"state_dict/backbone\.teacher\.", r"state_dict/backbone\."),
        "the teacher where there is one (its own evaluation uses forward_teacher), else the backbone",
        ((r"backbone\.student\.", "the student"), ONLINE_PROBE, PROJECTOR, PREDICTOR),
    ),
    Format(
        "lightning",
        "a Lightning file of another project",
        _lightning_other,
        "Lightning's keys, nothing that names the project",
        (),
        "the one encoder there is",
        (PROJECTOR, PREDICTOR, HEAD, QUEUE),
        normalization=None,
    ),
)  # fmt: skip
