"""A detector whose trunk is the checkpoint's, proven tensor by tensor and by what the two compute."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from evaluate.checkpoints.export import to_detectron2
from evaluate.checkpoints.load import LoadedBackbone
from evaluate.detection.trunk import LastMap
from pretrain.runtime.errors import InputError

TOLERANCE = 1e-5  # of feature maps, relative to their largest value


def build_detector(cfg: CfgNode, backbone: LoadedBackbone, seed: int) -> nn.Module:
    """The detector of `cfg` in training mode, heads drawn from `seed`, trunk taken from `backbone`.

    Raises:
        InputError: a tensor of the trunk has no place in the detector or the other way round, or the two compute
            different feature maps: nothing is trained from what would in part be a random start.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = build_model(cfg)
    load_trunk(detector, backbone)
    check_maps(detector, backbone)
    return detector.train()


@torch.no_grad()
def load_trunk(detector: Any, backbone: LoadedBackbone) -> None:
    """Copy every tensor of the backbone to its place, and show that it is there, bit for bit."""
    tensors = trunk_tensors(detector)
    given = _given(detector, backbone)
    odd = {
        "without a place in the detector": sorted(given.keys() - tensors.keys()),
        "missing from the checkpoint": sorted(tensors.keys() - given.keys()),
        "of another shape": sorted(
            name for name in given.keys() & tensors.keys() if given[name].shape != tuple(tensors[name].shape)
        ),
    }
    if any(odd.values()):
        said = "; ".join(f"{what}: {', '.join(names)}" for what, names in odd.items() if names)
        raise InputError(f"{backbone.ref} does not fit the detector's trunk: {said}")
    for name, tensor in tensors.items():
        tensor.copy_(torch.from_numpy(given[name]))
    for name, tensor in trunk_tensors(detector).items():
        if not torch.equal(tensor.cpu(), torch.from_numpy(given[name])):
            raise InputError(f"{backbone.ref}: '{name}' in the detector is not the checkpoint's")


def trunk_tensors(detector: Any) -> dict[str, Tensor]:
    """The trunk's tensors by detectron2's names (`stem.conv1.weight`, `res2.0.conv1.norm.bias`), wherever they lie.

    In a C4 detector res5 is part of the head, and its extra norm layer is no part of the trunk. A backbone of ours
    (`trunk.LastMap`) keeps its own names.
    """
    if isinstance(detector.backbone, LastMap):
        held = detector.backbone.trunk.state_dict(keep_vars=True)
        return {name: tensor.data for name, tensor in held.items() if not name.endswith("num_batches_tracked")}
    found = {}
    for name, tensor in detector.state_dict(keep_vars=True).items():
        own = name.removeprefix("backbone.").removeprefix("bottom_up.").removeprefix("roi_heads.")
        is_trunk = own.split(".")[0] in ("stem", "res2", "res3", "res4", "res5")
        if is_trunk and not own.startswith("res5.norm.") and not own.endswith("num_batches_tracked"):
            found[own] = tensor.data
    return found


@torch.no_grad()
def check_maps(detector: Any, backbone: LoadedBackbone) -> None:
    """Raises InputError unless both turn the same pixels into the same feature maps, stage by stage."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8)
    pixels_in = backbone.metadata.normalization
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (pixels_in.mean, pixels_in.std))
    wanted = backbone.module.maps((pixels[None].float() / 255 - mean) / std)
    training = detector.training
    detector.eval()
    x = detector.preprocess_image([{"image": pixels}]).tensor
    for number, (theirs, ours) in enumerate(zip(_stages(detector, x), wanted, strict=True), start=1):
        off = float((theirs.cpu() - ours).abs().max() / ours.abs().max().clamp(min=1e-12))
        if off > TOLERANCE:
            raise InputError(
                f"{backbone.ref}: the detector's map of stage {number} differs from the backbone's by {off:.1e} of its "
                f"largest value, more than {TOLERANCE:.0e}: strides, padding or normalisation are not the checkpoint's"
            )
    detector.train(training)


def _given(detector: Any, backbone: LoadedBackbone) -> dict[str, np.ndarray]:
    tensors = backbone.module.state_dict()
    if not isinstance(detector.backbone, LastMap):
        return to_detectron2(tensors)["model"]
    return {name: tensor.numpy() for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}


def _stages(detector: Any, x: Tensor) -> Iterator[Tensor]:
    """What each stage of the trunk makes of (1, 3, H, W), in eval mode."""
    if isinstance(detector.backbone, LastMap):
        yield from detector.backbone.trunk.maps(x)
        return
    trunk = getattr(detector.backbone, "bottom_up", detector.backbone)
    res5 = getattr(trunk, "res5", None) or detector.roi_heads.res5
    x = trunk.stem(x)
    for stage in (trunk.res2, trunk.res3, trunk.res4, res5):
        for name, block in stage.named_children():
            if name != "norm":  # the C4 head's extra layer
                x = block(x)
        yield x
