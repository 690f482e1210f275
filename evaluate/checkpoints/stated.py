"""What is said of an encoder's function by somebody other than its shapes, as arguments of timm's model.

Said by the tables beside the file (timm's and Hugging Face's `config.json`, open_clip's), by what the training script
kept in the file (its arguments), and by the user (`--arch`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from evaluate.checkpoints.formats import Facts, Format
from evaluate.checkpoints.inert import Record
from evaluate.checkpoints.states import Encoder, as_mapping
from pretrain.backbones.names import TIMM, arguments_of, split_name
from pretrain.runtime.errors import InputError

Table = Mapping[str, Any]


def given(arch: str | None) -> tuple[str | None, dict[str, Any]]:
    """(model or None, arguments) of `--arch`: `MODEL`, `MODEL,KEY=VALUE` or `KEY=VALUE,KEY=VALUE`.

    Raises:
        InputError: nothing of the kind.
    """
    if arch is None:
        return None, {}
    first = arch.removeprefix(TIMM).partition(",")[0]
    if not first.strip():
        raise InputError("--arch is empty; expected a model of timm's, or facts such as num_heads=12")
    if "=" in first:
        return None, arguments_of(arch.removeprefix(TIMM), arch)
    return split_name(arch)


# Hugging Face --------------------------------------------------------------------------------------------------------

# Where a model type's own class has a value for what `config.json` leaves out, as transformers' configurations do.
_HF_DEFAULTS: dict[str, dict[str, Any]] = {
    "vit": {"num_attention_heads": 12, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    "deit": {"num_attention_heads": 12, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    "vit_mae": {"num_attention_heads": 12, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    "vit_msn": {"num_attention_heads": 12, "layer_norm_eps": 1e-06, "hidden_act": "gelu"},
    "ijepa": {"num_attention_heads": 12, "layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    "dinov2": {"num_attention_heads": 12, "layer_norm_eps": 1e-06, "hidden_act": "gelu"},
    "dinov2_with_registers": {"num_attention_heads": 12, "layer_norm_eps": 1e-06, "hidden_act": "gelu"},
    "dinov3_vit": {"num_attention_heads": 6, "layer_norm_eps": 1e-05, "hidden_act": "gelu", "rope_theta": 100.0},
    "beit": {"num_attention_heads": 12, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "use_mean_pooling": True},
    "data2vec-vision": {
        "num_attention_heads": 12, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "use_mean_pooling": True
    },
    "clip_vision_model": {"num_attention_heads": 12, "layer_norm_eps": 1e-05, "hidden_act": "quick_gelu"},
    "siglip_vision_model": {"num_attention_heads": 12, "layer_norm_eps": 1e-06, "hidden_act": "gelu_pytorch_tanh"},
    "swin": {"layer_norm_eps": 1e-05, "hidden_act": "gelu"},
    "swinv2": {
        "layer_norm_eps": 1e-05, "hidden_act": "gelu", "window_size": 7, "pretrained_window_sizes": [0, 0, 0, 0]
    },
    "convnext": {"layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    "convnextv2": {"layer_norm_eps": 1e-12, "hidden_act": "gelu"},
    "dinov3_convnext": {"layer_norm_eps": 1e-06, "hidden_act": "gelu"},
}  # fmt: skip
# What of a configuration is which argument of timm's.
_HF_NAMES = {
    "num_attention_heads": "num_heads",
    "layer_norm_eps": "eps",
    "hidden_act": "act_layer",
    "image_size": "img_size",
    "window_size": "window_size",
    "pretrained_window_sizes": "pretrained_window_sizes",
    "rope_theta": "rope_temperature",
}


def huggingface(config: Table) -> dict[str, Any]:
    """What a `config.json` of transformers says; nothing for a type that is not known here."""
    kind = config.get("model_type")
    for whole, part in (
        ("clip", "clip_vision_model"),
        ("siglip", "siglip_vision_model"),
        ("siglip2", "siglip_vision_model"),
    ):
        if kind == whole and isinstance(config.get("vision_config"), dict):
            kind, config = part, config["vision_config"]
    defaults = _HF_DEFAULTS.get(kind) if isinstance(kind, str) else None
    if defaults is None:
        return {}
    values = {**defaults, **{key: value for key, value in config.items() if value is not None}}
    rope = values.get("rope_parameters")
    if isinstance(rope, dict) and isinstance(rope.get("rope_theta"), int | float):
        values["rope_theta"] = rope["rope_theta"]
    facts = {ours: values[theirs] for theirs, ours in _HF_NAMES.items() if theirs in values}
    if isinstance(facts.get("img_size"), list) and len(set(facts["img_size"])) == 1:
        facts["img_size"] = facts["img_size"][0]
    if kind in ("convnext", "convnextv2", "dinov3_convnext"):
        # Their blocks have 1e-6 in the code; the configuration's is the last norm's.
        facts["eps"], facts["last_eps"] = 1e-6, values["layer_norm_eps"]
    if kind == "dinov3_convnext":
        facts["eps"] = values["layer_norm_eps"]
    if kind in ("beit", "data2vec-vision") and not values["use_mean_pooling"]:
        facts["global_pool"] = "token"
    if kind in ("beit", "data2vec-vision"):
        facts["use_rot_pos_emb"] = False
    if kind == "ijepa":
        facts["global_pool"] = "avg"
    return facts


# Timm, open_clip -----------------------------------------------------------------------------------------------------


def timm_model(beside: Mapping[str, Table]) -> tuple[str, dict[str, Any]] | None:
    """(model, arguments) of a `config.json` of timm's; None where it is none.

    Raises:
        InputError: its arguments are nothing that a name can hold.
    """
    config = beside.get("config.json", {})
    name = config.get("architecture")
    if not isinstance(name, str) or "model_type" in config or not re.fullmatch(r"[A-Za-z0-9_.-]{1,100}", name):
        return None
    arguments = dict(config["model_args"]) if isinstance(config.get("model_args"), dict) else {}
    for key in ("num_classes", "in_chans", "pretrained", "drop_rate", "drop_path_rate"):
        arguments.pop(key, None)
    wrong = [key for key, value in arguments.items() if not _plain(value)]
    if wrong:
        raise InputError(f"config.json beside the file gives model_args {', '.join(wrong)}, which are no plain values")
    return name, arguments


def _plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(_plain(each) for each in value)
    if isinstance(value, str):
        return not set(value) & set(",[]=")
    return value is None or isinstance(value, bool | int | float)


def open_clip(beside: Mapping[str, Table]) -> dict[str, Any]:
    """What `open_clip_config.json` says of the visual tower."""
    config = beside.get("open_clip_config.json", {}).get("model_cfg", {})
    if not isinstance(config, dict) or not isinstance(config.get("vision_cfg"), dict):
        return {}
    vision = config["vision_cfg"]
    facts: dict[str, Any] = {"act_layer": "quick_gelu" if config.get("quick_gelu") else "gelu"}
    width, head = vision.get("width"), vision.get("head_width", 64)
    if isinstance(width, int) and isinstance(head, int) and head > 0:
        facts["num_heads"] = width // head
    return facts


# The file itself -----------------------------------------------------------------------------------------------------

# Heads of the models that training scripts call by these words: deit, dino, moco-v3 (vits.py), solo-learn, mae.
_SIXTYFOURS = {"tiny": 3, "small": 6, "base": 12, "large": 16, "huge": 16, "giant": 16}


def kept_by_training(facts: Facts, form: Format, root: Any) -> dict[str, Any]:
    """The number of heads, where the script's own arguments in the file or the format's code fix it."""
    if not isinstance(root, dict):
        return {}
    if form.name in ("moco_v3", "moco_v3_linear"):
        return {"num_heads": 12} if form.name == "moco_v3_linear" or _is_width(facts, (192, 384, 768)) else {}
    if form.name == "solo_learn":
        settings = as_mapping(root.get("hyper_parameters")) or {}
        if settings.get("method") == "mocov3" or (form.name == "solo_learn" and _fixed_positions(facts)):
            return {"num_heads": 12} if _is_width(facts, (192, 384, 768)) else {}
        return _sixtyfour(facts) if isinstance(settings.get("method"), str) else {}
    if form.name in _WIDTH_OVER_64 or (form.name == "timm" and not _fixed_positions(facts)):
        return _sixtyfour(facts)
    for key in ("args", "hyper_parameters", "arch"):
        arguments = root.get(key)
        table = as_mapping(arguments) if isinstance(arguments, dict | Record) else None
        word = (table or {}).get("model") or (table or {}).get("arch") if table is not None else arguments
        if isinstance(word, str):
            size = next((each for each in _SIXTYFOURS if each in word), None)
            if size is not None and _is_width(facts, tuple(64 * n for n in (_SIXTYFOURS[size],))):
                return {"num_heads": _SIXTYFOURS[size]}
    return {}


# Projects whose every ViT has heads of 64: width / 64 of them.
_WIDTH_OVER_64 = frozenset({"dino", "ibot", "msn", "dinov2", "dinov2_training"})


def _widths(facts: Facts) -> set[int]:
    found = set()
    for encoder in facts.encoders:
        patch = encoder.tensors().get("patch_embed.proj.weight")
        if encoder.layout.kind == "vit" and patch is not None and patch.shape:
            found.add(patch.shape[0])
    return found


def _is_width(facts: Facts, widths: tuple[int, ...]) -> bool:
    found = _widths(facts)
    return bool(found) and found <= set(widths)


def _sixtyfour(facts: Facts) -> dict[str, Any]:
    widths = _widths(facts)
    if len(widths) == 1 and (width := next(iter(widths))) in (192, 384, 768, 1024, 1536):
        return {"num_heads": width // 64}
    return {}


def _fixed_positions(facts: Facts) -> bool:
    """Whether positions are sines and cosines, as MoCo v3 fixes them: sine and cosine of one angle square to one."""
    for encoder in facts.encoders:
        positions = encoder.tensors().get("pos_embed")
        if positions is None or len(positions.shape) != 3 or positions.shape[2] % 4:
            continue
        values = positions.float32()[0, 1:]
        quarter = values.shape[1] // 4
        ones = values[:, :quarter] ** 2 + values[:, quarter : 2 * quarter] ** 2
        return bool(len(values)) and bool((abs(ones - 1) < 1e-3).all())
    return False


def told(
    encoder: Encoder, facts: Facts, form: Format, root: Any, beside: Mapping[str, Table], by_user: Table
) -> dict[str, Any]:
    """All that is known, the later sayers over the earlier: spelling, file, tables beside it, user."""
    read = encoder.layout.read(encoder.inside()) if encoder.layout.read else {}
    config = beside.get("config.json", {})
    return {
        **encoder.layout.facts,
        **read,
        **kept_by_training(facts, form, root),
        **form.facts,
        **huggingface(config),
        **open_clip(beside),
        **by_user,
    }
