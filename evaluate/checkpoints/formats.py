"""The formats of checkpoints, each a row: how it is told, which encoder its paper evaluates, what it drops.

A file is recognised by its structure, never by its name. Names here are "clean": `module.` (DataParallel) and
`_orig_mod.` (torch.compile) are left out wherever they stand as a segment of their own. An encoder's label is the path
of its state dict and its clean prefix, for instance `teacher/backbone.` for a DINO file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from evaluate.checkpoints.states import Encoder, StateDict
from pretrain.handover import KEY as OUR_KEY


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
    stride_in_1x1: bool = False


_HEAD = (r"(fc|head|heads|linear|classifier)\.", "classifier or projection on top of the trunk")
_PROJECTOR = (r"(projector|projection_head|projection|neck|global_projector|maps_projector)\w*\.", "projection head")
_PREDICTOR = (r"(predictor|prediction_head|classification_head)\w*\.", "predictor")
_QUEUE = (r"\w*queue\w*", "queue of keys")
_PROTOTYPES = (r"prototypes\.", "prototypes")
_ONLINE = (r"(online_classifier|classifier|callbacks_\w+|knn\w*)\.", "probe trained beside the encoder")


def _moving(prefix: str, name: str) -> tuple[str, str]:
    return prefix, f"the {name} encoder: its running average"


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


def _simsiam(f: Facts) -> bool:
    return (
        f.under("state_dict")
        and "meta" not in f.top
        and not f.lightning
        and f.has("encoder.fc.")
        and f.has("predictor.")
    )


def _mm(f: Facts) -> bool:
    return f.under("meta", "state_dict") and not f.lightning


_MM_TWINS = frozenset({"encoder_q.0.", "encoder_k.0.", "online_net.0.", "target_net.0."})


def _swav(f: Facts) -> bool:
    return "" in f.prefixes and f.has("prototypes.") and f.has("projection_head.")


def _zero_counters(f: Facts) -> bool:
    """SimCLR's conversion assigns trained statistics to a fresh network, whose counters stay 0."""
    encoder = f.encoders[0]
    counters = [t for name, t in encoder.tensors().items() if name.endswith("num_batches_tracked")]
    mean = encoder.tensors().get("bn1.running_mean")
    return (
        bool(counters) and not any(c.array().any() for c in counters) and mean is not None and bool(mean.array().any())
    )


def _simclr_v1(f: Facts) -> bool:
    return (
        f.top == {"state_dict"}
        and [e.label for e in f.encoders] == ["state_dict/"]
        and f.has("fc.")
        and _zero_counters(f)
    )


FORMATS: tuple[Format, ...] = (
    Format(
        "fastmoco",
        "fastmoco's own backbone.safetensors",
        lambda f: OUR_KEY in f.header,
        "the header of a safetensors file",
        ("",),
        "the file holds one backbone",
    ),
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
            _moving(r"(bbone_ema|encoder_ema\.0)\.", "momentum"),
            (r"encoder_ema\.1\.", "projection head of the momentum encoder"),
            _PREDICTOR,
        ),
    ),
    Format(
        "moco_v1",
        "MoCo v1",
        lambda f: "encoder_q." in f.prefixes and f.has("encoder_q.fc.weight") and not f.lightning,
        "encoder_q with a single fc",
        (r".*encoder_q\.",),
        "the query encoder is evaluated",
        (_moving(r"encoder_k\.", "key"), _QUEUE, (r"encoder_q\.fc\.", "projection head")),
    ),
    Format(
        "moco_v2",
        "MoCo v2",
        lambda f: "encoder_q." in f.prefixes and not f.has("encoder_q.fc.weight") and not f.lightning,
        "encoder_q with an fc of two layers",
        (r".*encoder_q\.",),
        "the query encoder is evaluated",
        (_moving(r"encoder_k\.", "key"), _QUEUE, (r"encoder_q\.fc\.", "projection head")),
    ),
    Format(
        "moco_v3",
        "MoCo v3",
        lambda f: "base_encoder." in f.prefixes and not f.lightning,
        "base_encoder and momentum_encoder",
        (r".*base_encoder\.",),
        "the base encoder is evaluated",
        (_moving(r"momentum_encoder\.", "momentum"), _PREDICTOR, (r"base_encoder\.(fc|head)\.", "projection head")),
    ),
    Format(
        "simsiam",
        "SimSiam",
        _simsiam,
        "state_dict with encoder (its fc the projector) and predictor",
        (r".*encoder\.",),
        "the one encoder there is",
        (_PREDICTOR, (r"encoder\.fc\.", "projection head")),
    ),
    Format(
        "simclr_v1",
        "SimCLR v1, converted to torch",
        _simclr_v1,
        "only a state_dict of bare names with a classifier, BN statistics trained but BN counters all 0",
        ("state_dict/",),
        "the one encoder there is",
        (_HEAD,),
        normalization="none",
    ),
    Format(
        "simclr_v2",
        "SimCLR v2, converted to torch",
        lambda f: "simclr_v2" in f.layouts,
        "names net.S.blocks.B.net.N",
        (r"resnet/", r".*"),
        "the one encoder there is; what was converted (EMA or not) stands in the file's name alone",
        (_HEAD, (r"layers\.", "projection head")),
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
            (r".*(projector|predictor)", "projection head or predictor"),
            (r".*classifier", "classifier"),
            (r".*_ema/(hidden|counter)$", "bookkeeping of a moving average"),
        ),
        padding="same",
    ),
    Format(
        "swav",
        "SwAV, DeepCluster-v2 or SeLa-v2",
        _swav,
        "bare trunk with projection_head and prototypes",
        (r"(.*/)?",),
        "the one encoder there is",
        (_PROJECTOR, _PROTOTYPES),
        normalization="swav",
    ),
    Format(
        "dino",
        "DINO, full training file",
        lambda f: f.under("student", "teacher"),
        "student and teacher at the top level",
        (r"teacher/backbone\.", r"teacher/"),
        "the teacher is evaluated (dino, eval_linear: --checkpoint_key teacher)",
        (
            (r"(head|dino_head|ibot_head)\.", "projection head"),
            (r"backbone\.fc\.", "classifier"),
        ),
    ),
    Format(
        "barlow_twins",
        "Barlow Twins, training file",
        lambda f: f.under("model") and {"backbone."} <= f.prefixes and f.has("projector.") and f.has("bn.running_mean"),
        "model with backbone, projector and a BN over the embeddings",
        (r"model/backbone\.",),
        "the one encoder there is",
        (_PROJECTOR, (r"bn\.", "BN over the embeddings")),
    ),
    Format(
        "vicreg",
        "VICReg or VICRegL, training file",
        lambda f: f.under("model") and {"backbone."} <= f.prefixes and f.has("projector.", "maps_projector.")
        and not f.has("bn.running_mean"),
        "model with backbone and projector",
        (r"model/backbone\.",),
        "the one encoder there is",
        (_PROJECTOR,),
    ),
    Format(
        "openselfsup",
        "OpenSelfSup, DenseCL or mmselfsup 0.x, training file",
        lambda f: _mm(f) and bool(f.prefixes & _MM_TWINS),
        "meta and state_dict, encoders as pairs of backbone and neck (encoder_q.0)",
        (r"state_dict/backbone\.", r"state_dict/(encoder_q|online_net)\.0\."),
        "the backbone is what its extraction script keeps",
        (
            (r"(encoder_q|online_net)\.0\.", "the backbone under its second name"),
            _moving(r"(encoder_k|target_net)\.0\.", "key or target"),
            (r"(encoder_q|encoder_k|online_net|target_net)\.1\.", "neck"),
            _PROJECTOR,
            _HEAD,
            _QUEUE,
        ),
    ),
    Format(
        "mmpretrain",
        "mmselfsup 1.x or mmpretrain",
        lambda f: _mm(f) and not f.prefixes & _MM_TWINS,
        "meta and state_dict with backbone",
        (r"state_dict/backbone\.", r"state_dict/"),
        "the backbone is what its extraction script keeps",
        (
            _moving(r"(encoder_k|target_net|momentum_encoder)\.", "momentum"),
            _PROJECTOR,
            _HEAD,
            _QUEUE,
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
        (_HEAD,),
    ),
    Format(
        "pixpro",
        "PixPro",
        lambda f: f.under("opt", "model") and {"encoder.", "encoder_k."} <= f.prefixes,
        "opt and model with encoder and encoder_k",
        (r"model/encoder\.",),
        "the online encoder is evaluated",
        (_moving(r"encoder_k\.", "momentum"), _PROJECTOR, (r"value_transform\.", "propagation head")),
    ),
    Format(
        "pycontrast",
        "PyContrast (InfoMin, InsDis, PIRL, CMC)",
        lambda f: f.under("opt", "model", "contrast") and "encoder_k." not in f.prefixes,
        "opt, model and contrast",
        (r"model/encoder\.",),
        "the online encoder is evaluated; CMC's two encoders take L and ab, not RGB",
        (_moving(r"model_ema/.*", "momentum"), (r"head\w*\.", "projection head")),
    ),
    Format(
        "vissl",
        "VISSL",
        lambda f: "_feature_blocks." in f.prefixes,
        "names that begin with _feature_blocks",
        (r".*_feature_blocks\.",),
        "the trunk",
        (_HEAD, (r"\d+\.", "head")),
    ),
    Format(
        "solo_learn",
        "solo-learn",
        _solo,
        "Lightning file with backbone (old files: encoder) and classifier",
        (r"state_dict/backbone\.", r"state_dict/encoder\."),
        "the online backbone is evaluated",
        (_moving(r"momentum_(backbone|encoder)\.", "momentum"), _ONLINE, _PROJECTOR, _PREDICTOR, _QUEUE, _PROTOTYPES,
         (r"momentum_(projector|classifier)\.", "head of the momentum encoder")),
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
            _moving(r"(key_backbone|teacher_backbone|backbone_momentum)\.", "momentum"),
            _ONLINE,
            _PROJECTOR,
            _PREDICTOR,
            _PROTOTYPES,
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
        ((r"backbone\.student\.", "the student"), _ONLINE, _PROJECTOR, _PREDICTOR),
    ),
    Format(
        "lightning",
        "a Lightning file of another project",
        _lightning_other,
        "Lightning's keys, nothing that names the project",
        (),
        "the one encoder there is",
        (_PROJECTOR, _PREDICTOR, _HEAD, _QUEUE),
        normalization=None,
    ),
    Format(
        "huggingface",
        "Hugging Face ResNet",
        lambda f: "huggingface" in f.layouts,
        "names embedder.embedder.convolution and encoder.stages",
        (r".*",),
        "the one encoder there is",
        (_HEAD,),
    ),
    Format(
        "detectron2",
        "detectron2",
        lambda f: "detectron2" in f.layouts,
        "names stem.conv1 and res2 to res5",
        (r".*",),
        "the one encoder there is",
        (_HEAD, (r"(proposal_generator|roi_heads)\.", "detection heads")),
        normalization=None,
    ),
    Format(
        "msra",
        "MSRA or Caffe2 pickle",
        lambda f: "caffe2" in f.layouts,
        "Caffe2's blob names, res2_0_branch2a_w",
        (r".*",),
        "the one encoder there is",
        ((r"(fc1000|pred)_[wb]", "classifier"),),
        normalization="msra_bgr",
        stride_in_1x1=True,
    ),
    Format(
        "torchvision",
        "a flat file in torchvision's names with a classifier",
        lambda f: f.bare and f.container != "safetensors" and f.has("fc.") and not _swav(f),
        "bare names at the top level and fc",
        ("",),
        "the file holds one network",
        (_HEAD,),
        normalization=None,
    ),
    Format(
        "backbone_only",
        "a flat file of a backbone (Barlow Twins, VICReg, DINO, extracted SwAV and others publish such files)",
        lambda f: f.bare and f.container != "safetensors" and not f.has("fc.") and not _swav(f)
        and not f.layouts & {"haiku", "caffe2", "detectron2", "huggingface", "simclr_v2"},
        "bare names at the top level, no fc",
        ("",),
        "the file holds one backbone",
        (_HEAD,),
        normalization=None,
    ),
    Format(
        "timm",
        "timm",
        lambda f: f.bare and f.container == "safetensors" and OUR_KEY not in f.header
        and not f.layouts & {"huggingface", "detectron2"} and not _swav(f),
        "flat safetensors file of bare names",
        ("",),
        "the file holds one network",
        (_HEAD,),
        normalization=None,
    ),
)  # fmt: skip

PLAIN = Format(
    "plain",
    "a file of no known project",
    lambda f: True,
    "no known structure, but an encoder in a known spelling",
    (),
    "the one encoder there is",
    (_HEAD, _PROJECTOR, _PREDICTOR, _QUEUE),
    normalization=None,
)


def matching(facts: Facts) -> list[Format]:
    """Every format that tells the file as its own; `PLAIN` where none does."""
    return [row for row in FORMATS if facts.encoders and row.tells(facts)] or [PLAIN]


def reason_to_drop(row: Format, path: str, name: str, inside: str) -> str | None:
    """Why a format leaves a tensor out, or None if its table does not say.

    Args:
        path: of the tensor's state dict.
        name: clean.
        inside: the same without the chosen encoder's prefix.
    """
    for pattern, reason in row.drops:
        if any(re.match(pattern, spelt) for spelt in (name, inside, f"{path}/{name}")):
            return reason
    return None
