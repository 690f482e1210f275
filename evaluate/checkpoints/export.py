"""Backbones written in other projects' layouts, exact to the bit, and refused where the other cannot hold them."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluate.checkpoints.analyse import CONVERTED, analyse, metadata_of
from evaluate.checkpoints.architectures import TRUNKS, Trunk
from evaluate.checkpoints.load import canonical, load_backbone
from pretrain.backbones.handover import BackboneMetadata, write_backbone
from pretrain.runtime.errors import InputError, unknown
from pretrain.runtime.files import replacing, write_bytes, write_json

AUTHOR = "fastmoco"


def to_detectron2(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The content of a detectron2 `.pkl`, from torchvision names.

    `__author__` makes DetectionCheckpointer take the names as they are (it renames them as Caffe2's otherwise, and BN
    statistics are lost); `matching_heuristics` lets it find the backbone inside a detector by the names' ends.
    """
    model = {_detectron2_name(n): t.numpy() for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
    return {"model": model, "__author__": AUTHOR, "matching_heuristics": True}


def to_mmseg(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The content of an mmsegmentation or mmpretrain checkpoint: a plain ResNet under `backbone.`, never ResNetV1c."""
    return {"meta": {"author": AUTHOR}, "state_dict": {f"backbone.{name}": t.clone() for name, t in tensors.items()}}


def to_huggingface(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of transformers' ResNetModel."""
    return {_huggingface_name(name): tensor for name, tensor in tensors.items()}


def convert(
    path: str | Path,
    to: str,
    out: str | Path,
    *,
    select: str | None = None,
    normalization: str | Mapping[str, Any] | None = None,
    arch: str | None = None,
) -> None:
    """Write the backbone of a file in another project's layout.

    Args:
        path: a checkpoint of any known format.
        to: a key of `TARGETS`.
        out: the file to write. For huggingface a name without suffix makes a folder that `from_pretrained` takes.

    Raises:
        InputError: the file is refused (see `load_backbone`), there is no such target, or the target's ResNet cannot
            hold these weights.
    """
    if to not in TARGETS:
        raise unknown("conversion target", to, TARGETS)
    found = analyse(path, select=select, normalization=normalization, arch=arch)
    found.demand()
    metadata = metadata_of(found)
    if metadata.backbone in TRUNKS:
        tensors = canonical(found)
        if to != "fastmoco":
            _check_target(to, metadata, TRUNKS[metadata.backbone])
    elif to == "timm":
        tensors = {name.removeprefix("model."): tensor for name, tensor in canonical(found).items()}
    elif to == "fastmoco":
        tensors = load_backbone(path, select=select, normalization=normalization, arch=arch).module.state_dict()
    else:
        raise InputError(
            f"{path} is a {metadata.backbone}, which {to} has no layout for; expected a ResNet, or --to timm"
        )
    _refuse_to_replace(Path(path), Path(out), to)
    TARGETS[to](Path(out), tensors, metadata)


def _refuse_to_replace(source: Path, out: Path, to: str) -> None:
    """Raises InputError: writing `out` would replace the checkpoint that is read, or what stands in its folder."""
    makes_folder = to == "huggingface" and not out.suffix
    if makes_folder and out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --to huggingface makes a folder of that name")
    if not makes_folder and out.is_dir():
        raise InputError(f"{out} is a folder; expected the name of the file to write")
    here = source if source.is_dir() else source.parent
    if out.exists() and (out.samefile(source) or (makes_folder and out.samefile(here))):
        raise InputError(f"{out} is what is converted, and would be replaced: give another --out")


def _check_target(to: str, metadata: BackboneMetadata, trunk: Trunk) -> None:
    what = f"{metadata.backbone} cannot become a {to} file"
    if metadata.padding != "symmetric":
        needs = {"same": "SAME padding at stride 2", "wide_stem": "2 pixels of padding around the stem"}
        raise InputError(f"{what}: its weights need {needs[metadata.padding]}, which {to}'s ResNet does not have")
    if metadata.stride_in_1x1 and to in ("torchvision", "timm"):
        raise InputError(f"{what}: its weights need the stride on the first 1x1 convolution, which {to} does not have")
    if to == "torchvision":
        return
    if trunk.stem[1] != 7:
        raise InputError(f"{what}: its stem is {trunk.stem[1]}x{trunk.stem[1]}, expected 7x7 and max-pool")
    if trunk.stem[0] != 64 and to != "huggingface":
        raise InputError(f"{what}: its stem has {trunk.stem[0]} channels, expected 64")
    if to == "huggingface" and (trunk.inner, trunk.groups) != (1, 1):
        raise InputError(f"{what}: its 3x3 convolutions are wider than {to}'s or in groups")


# Names ---------------------------------------------------------------------------------------------------------------


def _detectron2_name(name: str) -> str:
    name = re.sub(r"^bn1\.", "stem.conv1.norm.", name)
    name = re.sub(r"^conv1\.", "stem.conv1.", name)
    name = re.sub(r"^layer(\d)\.", lambda m: f"res{int(m[1]) + 1}.", name)
    name = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", name)
    name = re.sub(r"\.downsample\.0\.", ".shortcut.", name)
    return re.sub(r"\.downsample\.1\.", ".shortcut.norm.", name)


def _huggingface_name(name: str) -> str:
    if found := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
        return f"embedder.embedder.{_huggingface_part(found[1])}.{found[2]}"
    found = re.fullmatch(r"layer(\d)\.(\d+)\.(conv|bn|downsample\.)(\d)\.(\w+)", name)
    assert found is not None, name
    block = f"encoder.stages.{int(found[1]) - 1}.layers.{found[2]}"
    if found[3] == "downsample.":
        return f"{block}.shortcut.{_huggingface_part('conv' if found[4] == '0' else 'bn')}.{found[5]}"
    return f"{block}.layer.{int(found[4]) - 1}.{_huggingface_part(found[3])}.{found[5]}"


def _huggingface_part(kind: str) -> str:
    return {"conv": "convolution", "bn": "normalization"}[kind]


# Files ---------------------------------------------------------------------------------------------------------------


def _save_torch(out: Path, content: Any) -> None:
    with replacing(out) as stream:
        torch.save(content, stream)


def _provenance(metadata: BackboneMetadata) -> dict[str, str]:
    return {CONVERTED: metadata.model_dump_json()}


def _write_torchvision(out: Path, tensors: dict[str, Tensor], metadata: BackboneMetadata) -> None:
    _save_torch(out, tensors)


def _safetensors(tensors: dict[str, Tensor], metadata: BackboneMetadata) -> bytes:
    """A file's bytes. safetensors orders the header's text pairs at random; here equal weights are equal files."""
    from safetensors.torch import save

    data = save(tensors, metadata={"format": "pt", **_provenance(metadata)})
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def _write_timm(out: Path, tensors: dict[str, Tensor], metadata: BackboneMetadata) -> None:
    write_bytes(out, _safetensors(tensors, metadata))


def _write_detectron2(out: Path, tensors: dict[str, Tensor], metadata: BackboneMetadata) -> None:
    stream = io.BytesIO()
    pickle.dump({**to_detectron2(tensors), **_provenance(metadata)}, stream, protocol=4)
    write_bytes(out, stream.getvalue())


def _write_mmseg(out: Path, tensors: dict[str, Tensor], metadata: BackboneMetadata) -> None:
    content = to_mmseg(tensors)
    content["meta"] |= _provenance(metadata)
    _save_torch(out, content)


def _write_huggingface(out: Path, tensors: dict[str, Tensor], metadata: BackboneMetadata) -> None:
    weights = _safetensors(to_huggingface(tensors), metadata)
    if out.suffix:
        write_bytes(out, weights)
        return
    trunk = TRUNKS[metadata.backbone]
    expansion = 4 if trunk.bottleneck else 1
    config = {
        "architectures": ["ResNetModel"],
        "model_type": "resnet",
        "embedding_size": trunk.stem[0],
        "hidden_sizes": [trunk.planes * 2**stage * expansion for stage in range(len(trunk.blocks))],
        "depths": list(trunk.blocks),
        "layer_type": "bottleneck" if trunk.bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": metadata.stride_in_1x1,
    }
    spec = metadata.normalization
    write_json(out / "config.json", config)
    write_json(out / "preprocessor_config.json", {"image_mean": list(spec.mean), "image_std": list(spec.std)})
    write_bytes(out / "model.safetensors", weights)


TARGETS: dict[str, Callable[[Path, dict[str, Tensor], BackboneMetadata], None]] = {
    "torchvision": _write_torchvision,
    "timm": _write_timm,
    "detectron2": _write_detectron2,
    "mmseg": _write_mmseg,
    "huggingface": _write_huggingface,
    "fastmoco": write_backbone,
}
