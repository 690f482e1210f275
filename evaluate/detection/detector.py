"""A detector whose trunk is the checkpoint's, proven tensor by tensor and by what the two compute."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor, nn

from evaluate.checkpoints.export import to_detectron2
from evaluate.checkpoints.load import LoadedBackbone
from pretrain.errors import InputError

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
def load_trunk(detector: nn.Module, backbone: LoadedBackbone) -> None:
    """Copy every tensor of the backbone to its place, and show that it is there, bit for bit."""
    tensors = trunk_tensors(detector)
    given = to_detectron2(backbone.module.state_dict())["model"]
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


def trunk_tensors(detector: nn.Module) -> dict[str, Tensor]:
    """The trunk's tensors by detectron2's names (`stem.conv1.weight`, `res2.0.conv1.norm.bias`), wherever they lie.

    In a C4 detector res5 is part of the head, and its extra norm layer is no part of the trunk.
    """
    found = {}
    for name, tensor in detector.state_dict(keep_vars=True).items():
        own = name.removeprefix("backbone.").removeprefix("bottom_up.").removeprefix("roi_heads.")
        is_trunk = own.split(".")[0] in ("stem", "res2", "res3", "res4", "res5")
        if is_trunk and not own.startswith("res5.norm.") and not own.endswith("num_batches_tracked"):
            found[own] = tensor.data
    return found


@torch.no_grad()
def check_maps(detector: nn.Module, backbone: LoadedBackbone) -> None:
    """Raises InputError unless both turn the same pixels into the same feature maps, stage by stage."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (3, 64, 96), generator=generator, dtype=torch.uint8)
    pixels_in = backbone.metadata.normalization
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (pixels_in.mean, pixels_in.std))
    wanted = backbone.module.maps((pixels[None].float() / 255 - mean) / std)
    trunk = getattr(detector.backbone, "bottom_up", detector.backbone)
    res5 = getattr(trunk, "res5", None) or detector.roi_heads.res5
    stages = [*(getattr(trunk, name) for name in ("res2", "res3", "res4")), res5]
    training = detector.training
    detector.eval()
    x = trunk.stem(detector.preprocess_image([{"image": pixels}]).tensor)
    for number, (stage, ours) in enumerate(zip(stages, wanted, strict=True), start=2):
        for name, block in stage.named_children():
            x = block(x) if name != "norm" else x
        off = float((x.cpu() - ours).abs().max() / ours.abs().max().clamp(min=1e-12))
        if off > TOLERANCE:
            raise InputError(
                f"{backbone.ref}: the detector's map after res{number} differs from the backbone's by {off:.1e} of its "
                f"largest value, more than {TOLERANCE:.0e}: strides, padding or normalisation are not the checkpoint's"
            )
    detector.train(training)
