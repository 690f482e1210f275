"""The tensors of the chosen encoder: which backbone they make, whether all are there, and sound."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from evaluate.checkpoints.analysis import Analysis
from evaluate.checkpoints.architectures import COUNTER, TRUNKS, Match, Shape, expected, match_resnet
from evaluate.checkpoints.families import match
from evaluate.checkpoints.layouts.others import HEADS
from evaluate.checkpoints.limits import listed, readable
from evaluate.checkpoints.stated import given, timm_model, told
from evaluate.checkpoints.states import Encoder, constant
from evaluate.checkpoints.tensors import FLOATS, StoredTensor
from evaluate.checkpoints.whole import held_against
from pretrain.backbones.handover import BackboneMetadata
from pretrain.backbones.names import TIMM, spell_name

# torch's BatchNorm2d adds this to the variance: with it, variance 1 - eps makes a folded affine layer exact.
BN_EPS = 1e-5


def take(found: Analysis, encoder: Encoder, arch: str | None = None) -> None:
    """Set the tensors and the backbone they make, with all objections.

    Args:
        arch: what the user says of the architecture (`evaluate.checkpoints.stated.given`).
    """
    tensors = {name: tensor for name, tensor in encoder.tensors().items() if not name.endswith(COUNTER)}
    if encoder.layout.name == "caffe2":
        tensors |= _unfolded(found, tensors)
    model, arguments = given(arch)
    beside = found.content.beside
    # timm's folders hold safetensors or .bin; beside a .pth of somebody's, a config.json may belong to something else.
    loose = found.content.path.suffix in (".pth", ".pt", ".tar", ".ckpt", ".pkl")
    by_timm = timm_model(beside) if encoder.label == "" and not loose else None
    found.match = None
    if model in TRUNKS and not arguments:
        found.match = _against(model, shapes_of(tensors))
    elif model is None and not arguments and found.stated is not None and found.stated.backbone.startswith(TIMM):
        # `fastmoco convert` wrote the file, and with it which model it is.
        found.match = Match(found.stated.backbone, f"{found.stated.backbone}, as the file says")
    elif model is not None:
        found.match = Match(spell_name(model, arguments), f"{model}, given by the user")
    elif by_timm is not None and (by_timm[0] not in TRUNKS or by_timm[1]):
        name, stated = by_timm
        found.match = Match(spell_name(name, stated | arguments), f"timm's {name}, by the config.json beside the file")
        # timm's own names, whatever family they would be taken for.
        tensors = {n: t for n, t in encoder.state.tensors.items() if not n.endswith(COUNTER)}
        tensors = {n: t for n, t in tensors.items() if not n.startswith(HEADS)}
    if found.match is None:
        facts = told(encoder, found.facts, found.format, found.content.root, beside, arguments)
        found.match = match(encoder.layout.kind, shapes_of(tensors), facts)
    if encoder.layout.name == "huggingface" and (reason := _huggingface_resnet(found)) is not None:
        found.match = Match(None, found.match.text, reason=reason)
    found.tensors = tensors
    if found.match.fits:
        found.match = held_against(found.match, shapes_of(tensors))
    found.objections += _objections(found.match)
    if found.format.stride_is_a_guess and found.stated is None and "layer1.0.conv3.weight" in tensors:
        found.warnings.append(
            "names cannot tell where the stride of a block stands: on the 3x3 convolution, as in torchvision and as is "
            "assumed here, or on the 1x1 before it, as in what began with MSRA's R-50.pkl"
        )


def _huggingface_resnet(found: Analysis) -> str | None:
    """Why transformers' ResNet is another function than ours, by the config.json beside it; None where it is not."""
    config = found.content.beside.get("config.json", {})
    if config.get("model_type") != "resnet":
        return None
    if config.get("downsample_in_first_stage"):
        return (
            "its config.json says downsample_in_first_stage: the first stage halves its maps, which no ResNet here does"
        )
    if config.get("hidden_act", "relu") != "relu":
        return f"its config.json says hidden_act '{config['hidden_act']}', and every ResNet here has relu"
    return None


def shapes_of(tensors: dict[str, StoredTensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: tensor.shape for name, tensor in tensors.items()}


def take_own(found: Analysis, own: BackboneMetadata) -> None:
    """The same for a file of our own, whose header names the backbone."""
    found.why = "the file holds one backbone"
    held = {readable(name): tensor for name, tensor in found.content.root.items()}
    found.tensors = {name: tensor for name, tensor in held.items() if not name.endswith(COUNTER)}
    if own.backbone in TRUNKS:
        found.match = _against(own.backbone, shapes_of(found.tensors))
    elif not own.backbone.startswith("timm:"):
        reason = f"its header names the backbone '{own.backbone}', which this version does not have"
        found.match = Match(None, own.backbone, reason=reason)
    else:
        found.match = held_against(Match(own.backbone, own.backbone), shapes_of(found.tensors), prefix="")
    found.objections += _objections(found.match)


def _against(name: str, shapes: Mapping[str, Shape]) -> Match:
    """The match with one ResNet of ours."""
    table = expected(name)
    return Match(
        name,
        match_resnet(shapes).text,
        tuple(name for name in table if name not in shapes),
        tuple(f"{n} is {shapes[n]}, expected {s}" for n, s in table.items() if shapes.get(n, s) != s),
        tuple(name for name in shapes if name not in table),
    )


def _objections(match: Match) -> list[str]:
    said: list[str] = []
    if match.reason is not None:
        return [f"{match.reason} ({match.text})"]
    if match.missing:
        said.append(f"{len(match.missing)} tensors of {match.backbone} are missing: {listed(match.missing)}")
    if match.misshapen:
        said.append(
            f"{len(match.misshapen)} tensors do not have {match.backbone}'s shape: {listed(match.misshapen, '; ')}"
        )
    if match.unexpected:
        said.append(
            f"{len(match.unexpected)} tensors of the trunk have no place in {match.backbone}, the closest backbone "
            f"({match.text}): {listed(match.unexpected)}"
        )
    return said


def _unfolded(found: Analysis, tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Statistics for a file whose batch norm is only scale and shift."""
    made: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        at, _, leaf = name.rpartition(".")
        if leaf == "bias" and f"{at}.running_mean" not in tensors and len(tensor.shape) == 1:
            made[f"{at}.running_mean"] = constant(tensor.shape[0], 0.0)
            made[f"{at}.running_var"] = constant(tensor.shape[0], 1.0 - BN_EPS)
    if made:
        found.warnings.append("its batch norm is folded: mean 0 and variance 1 stand for statistics that are not there")
    return made


def check_numbers(found: Analysis) -> None:
    """Object to numbers that are none, and warn of statistics that no image has made."""
    declared = sum(tensor.nbytes for tensor in found.tensors.values())
    if found.format.name != "msra" and declared > found.content.unpacked_bytes:
        found.objections.append(f"its tensors declare {declared} bytes, more than the file is long: they share memory")
        return
    untrained = statistics = 0
    for name, tensor in found.tensors.items():
        if tensor.dtype not in FLOATS:
            found.objections.append(f"tensor {name} is of type {tensor.dtype}; expected floating point numbers")
            continue
        values = tensor.float32() if tensor.dtype in ("bfloat16", "float16") else tensor.array()
        if not np.isfinite(values).all():
            found.objections.append(f"tensor {name} holds NaN or infinity")
        if name.endswith("running_var"):
            statistics += 1
            if (values < 0).any():
                found.objections.append(f"tensor {name} holds a negative variance")
            mean = found.tensors.get(name.replace("running_var", "running_mean"))
            untrained += bool((values == 1).all() and mean is not None and not mean.array().any())
    for name, counter in found.counters().items():
        if counter.numel != 1:
            found.objections.append(f"the counter {name} is of shape {counter.shape}, not one number")
    if untrained:
        found.warnings.append(
            f"{untrained} of {statistics} batch norms have never seen an image: mean 0 and variance 1 everywhere"
        )
    if any(tensor.dtype == "float64" for tensor in found.tensors.values()):
        found.warnings.append("its float64 numbers are rounded to float32")
