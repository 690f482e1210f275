"""Folders as libraries and training frameworks leave them, and packed files: the same backbone as the plain file."""

from __future__ import annotations

import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from evaluate.checkpoints.inspect import inspect_file
from evaluate.checkpoints.load import load_backbone
from evaluate.checkpoints.sources.folders import open_checkpoint
from pretrain.backbones import registry
from pretrain.runtime.errors import InputError


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(3)
    return registry.build("cifar_resnet20").state_dict()


def halves(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    names = sorted(state)
    return [{n: state[n] for n in names[::2]}, {n: state[n] for n in names[1::2]}]


def sharded(folder: Path, state: dict[str, Tensor], kind: str) -> Path:
    folder.mkdir()
    stem, suffix = {"safetensors": ("model", "safetensors"), "bin": ("pytorch_model", "bin")}[kind]
    weight_map = {}
    for index, part in enumerate(halves(state), start=1):
        name = f"{stem}-{index:05d}-of-00002.{suffix}"
        save_file(part, folder / name) if kind == "safetensors" else torch.save(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    table = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(table))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    return folder


def distributed(folder: Path, state: dict[str, Tensor], **more: Any) -> Path:
    # A plain process: torch warns that it saves alone.
    import warnings

    import torch.distributed.checkpoint as dcp

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"model": state, **more}, checkpoint_id=folder)
    return folder


def deepspeed(folder: Path, state: dict[str, Tensor]) -> Path:
    (folder / "global_step7").mkdir(parents=True)
    (folder / "latest").write_text("global_step7")
    content = {"module": {f"module.{name}": tensor for name, tensor in state.items()}, "ds_config": {}}
    torch.save(content, folder / "global_step7" / "mp_rank_00_model_states.pt")
    torch.save({"optimizer_state_dict": {}}, folder / "global_step7" / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    return folder


def single(folder: Path, state: dict[str, Tensor], name: str) -> Path:
    folder.mkdir()
    save_file(state, folder / name) if name.endswith("safetensors") else torch.save(
        {"state_dict": state}, folder / name
    )
    (folder / "README.md").write_text("# a model")
    (folder / "training_args.json").write_text("{}")
    return folder


FOLDERS: dict[str, Callable[[Path, dict[str, Tensor]], Path]] = {
    "save_pretrained": lambda at, state: single(at, state, "model.safetensors"),
    "pytorch_model.bin": lambda at, state: single(at, state, "pytorch_model.bin"),
    "one odd name": lambda at, state: single(at, state, "epoch_100.pth.tar"),
    "safetensors in shards": lambda at, state: sharded(at, state, "safetensors"),
    "bin in shards": lambda at, state: sharded(at, state, "bin"),
    "the index itself": lambda at, state: sharded(at, state, "bin") / "pytorch_model.bin.index.json",
    "torch.distributed.checkpoint": distributed,
    "accelerate's FSDP": lambda at, state: distributed(at / "pytorch_model_fsdp_0", state).parent,
    "deepspeed": deepspeed,
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_is_its_weights(tmp_path: Path, state: dict[str, Tensor], through_tasks: Any, kind: str) -> None:
    path = FOLDERS[kind](tmp_path / "folder", state)
    seen = inspect_file(path)
    assert (seen.loads, seen.backbone) == (True, "cifar_resnet20")
    loaded = load_backbone(path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.module.state_dict().items())
    assert loaded.sha256 == seen.sha256
    if "shards" in kind:
        assert loaded.metadata.normalization.std == (0.25,) * 3
    assert 0 <= through_tasks(path, tasks=["knn"])["knn"] <= 100


def test_pieces_of_several_ranks_make_whole_tensors(tmp_path: Path, state: dict[str, Tensor]) -> None:
    # What two ranks of FSDP leave: rows of a tensor in one file, the other rows in another, the optimizer beside.
    from torch.distributed.checkpoint import FileSystemReader

    folder = distributed(tmp_path / "whole", state, optimizer={"conv1.weight": torch.zeros(3)})
    metadata = FileSystemReader(folder).read_metadata()
    split(tmp_path / "split", folder, metadata, "model.conv1.weight", state["conv1.weight"])
    loaded = load_backbone(tmp_path / "split")
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.module.state_dict().items())
    assert "optimizer" not in open_checkpoint(tmp_path / "split").root
    assert {f.path.suffix for f in open_checkpoint(tmp_path / "split").files} == {"", ".distcp"}


def split(target: Path, source: Path, metadata: Any, name: str, tensor: Tensor) -> None:
    """Rewrite a saved folder so that `name` lies in two pieces of which the second stands in a file of its own."""
    import pickle
    import shutil

    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

    shutil.copytree(source, target)
    rows, rest = 5, list(tensor.shape[1:])
    chunks, begin = [], 0
    for number, piece in enumerate((tensor[:rows], tensor[rows:])):
        file = f"__{number}_1.distcp"
        torch.save(piece.clone(), target / file)
        offset = torch.Size([begin] + [0] * len(rest))
        chunks.append(ChunkStorageMetadata(offset, piece.shape))
        info = _StorageInfo(file, 0, (target / file).stat().st_size)
        metadata.storage_data[MetadataIndex(name, offset, number)] = info
        begin += len(piece)
    metadata.state_dict_metadata[name].chunks[:] = chunks
    (target / ".metadata").write_bytes(pickle.dumps(metadata))


def test_shards_that_do_not_make_a_whole_are_refused(tmp_path: Path, state: dict[str, Tensor], verdict: Any) -> None:
    folder = sharded(tmp_path / "a", state, "safetensors")
    index = folder / "model.safetensors.index.json"
    table = json.loads(index.read_text())
    assert "one of several shards" in verdict(folder / "model-00001-of-00002.safetensors")
    for name, said in (
        ("../secret.safetensors", "names no files beside it"),
        ("/etc/passwd", "names no files beside it"),
        ("..", "names no files beside it"),
        ("gone.safetensors", "no checkpoint file at"),
    ):
        index.write_text(json.dumps({"weight_map": table["weight_map"] | {"conv1.weight": name}}))
        assert said in verdict(folder)
    other = table["weight_map"]["conv1.weight"].replace("00001-of", "x").replace("00002-of", "00001-of")
    index.write_text(json.dumps({"weight_map": table["weight_map"] | {"conv1.weight": other.replace("x", "00002-of")}}))
    assert "lacks tensors that the index places there: conv1.weight" in verdict(folder)
    for wrong in ("[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "[" * 99_999):
        index.write_text(wrong)
        assert "no index of sharded weights" in verdict(folder)
    os.truncate(next(distributed(tmp_path / "b", state).glob("*.distcp")), 5000)
    assert "is cut short" in verdict(tmp_path / "b")


def test_pieces_that_lie_about_each_other_are_refused(tmp_path: Path, state: dict[str, Tensor], verdict: Any) -> None:
    import copy
    import pickle

    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex

    folder = distributed(tmp_path / "whole", state)
    metadata = FileSystemReader(folder).read_metadata()
    name, index = "model.conv1.weight", MetadataIndex("model.conv1.weight", torch.Size([0] * 4), 0)

    def refused(change: Callable[[Any], None]) -> str:
        changed = copy.deepcopy(metadata)
        change(changed)
        (folder / ".metadata").write_bytes(pickle.dumps(changed))
        return verdict(folder)

    def thrice(changed: Any) -> None:  # the same bytes at three places of a larger tensor
        chunk = changed.state_dict_metadata[name].chunks[0]
        changed.state_dict_metadata[name].size = torch.Size([48, 3, 3, 3])
        for row in (16, 32):
            offsets = torch.Size([row, 0, 0, 0])
            changed.state_dict_metadata[name].chunks.append(ChunkStorageMetadata(offsets, chunk.sizes))
            changed.storage_data[MetadataIndex(name, offsets, row)] = changed.storage_data[index]

    assert "do not have cifar_resnet20" in refused(thrice) or "share" in refused(thrice)
    assert "has another shape" in refused(
        lambda m: setattr(m.state_dict_metadata[name], "size", torch.Size([8, 3, 3, 3]))
    )
    assert "do not fill" in refused(lambda m: setattr(m.state_dict_metadata[name], "size", torch.Size([99, 3, 3, 3])))
    assert "is nowhere" in refused(lambda m: m.storage_data.pop(index))
    assert "has no pieces" in refused(lambda m: m.state_dict_metadata[name].chunks.clear())
    assert "no file beside it" in refused(lambda m: setattr(m.storage_data[index], "relative_path", "../x.distcp"))
    assert "cut short" in refused(lambda m: setattr(m.storage_data[index], "length", 10**9))
    assert "sizes that are none" in refused(lambda m: setattr(m.storage_data[index], "offset", -5))
    assert "transformed" in refused(lambda m: setattr(m.storage_data[index], "transform_descriptors", ["zstd"]))


def test_what_others_must_merge_is_refused_with_their_command(tmp_path: Path, verdict: Any) -> None:
    for index, (names, said) in enumerate(
        [
            (["zero_pp_rank_0_mp_rank_00_model_states.pt"], "zero_to_fp32.py"),
            (["mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"], "split over 2 tensor-parallel ranks"),
            (["tf_model.h5", "config.json"], "from_tf=True"),
            (["flax_model.msgpack"], "from_flax=True"),
            (["model.ckpt-1000.index", "checkpoint"], "a TensorFlow model"),
            (["saved_model.pb"], "a TensorFlow model"),
            (["a.pth", "b.pth"], "holds 2 checkpoints; give one of them: a.pth, b.pth"),
            (["notes.txt", "\x1b[2J"], "holds no weights that are read here"),
            ([], "it holds nothing"),
        ]
    ):
        folder = tmp_path / str(index)
        folder.mkdir()
        for name in names:
            (folder / name).write_bytes(b"x")
        assert said in verdict(folder)


class Rebuilt:
    """Pickles as torch pickles tensors of a subclass that wraps others (FSDP's DTensor, quantised ones)."""

    def __init__(self, kind: object) -> None:
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        size = torch.Size([4])
        return torch._utils._rebuild_wrapper_subclass, (self.kind, torch.float32, size, (1,), 0, None, "cpu", False)


def test_shards_of_one_rank_are_called_so(tmp_path: Path, state: dict[str, Tensor], verdict: Any) -> None:
    from torch.distributed.tensor import DTensor

    path = tmp_path / "rank0.pt"
    torch.save({"model": {**state, "conv1.weight": Rebuilt(DTensor)}}, path)
    assert "one rank's shards (torch.distributed.tensor.DTensor)" in verdict(path)
    torch.save(dict.fromkeys(state, Rebuilt(torch.nn.Parameter)), path)
    assert "tensors of class torch.nn.parameter.Parameter, which are not read" in verdict(path)


def zstd(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor().compress(data)


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, zstd], ids=["gz", "xz", "zst"])
def test_packed_files(
    tmp_path: Path,
    state: dict[str, Tensor],
    verdict: Any,
    through_tasks: Any,
    monkeypatch: pytest.MonkeyPatch,
    pack: Callable[[bytes], bytes],
) -> None:
    plain, packed = tmp_path / "plain.pth", tmp_path / "packed.pth.x"
    torch.save({"state_dict": state}, plain)
    packed.write_bytes(pack(plain.read_bytes()))
    loaded = load_backbone(packed)
    assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.module.state_dict().items())
    assert loaded.sha256 != load_backbone(plain).sha256  # of the file that was given
    assert 0 <= through_tasks(packed, tasks=["knn"])["knn"] <= 100
    packed.write_bytes(pack(plain.read_bytes())[:-200])
    assert "damaged or cut short" in verdict(packed)
    packed.write_bytes(pack(b"x" * 100)[:-1] + b"\0")
    assert verdict(packed)
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("FASTMOCO_CACHE", str(tmp_path / "a file"))
    packed.write_bytes(pack(b"y" * 100))
    assert "it cannot be unpacked into" in verdict(packed)


def test_a_file_that_unpacks_without_end_is_stopped(
    tmp_path: Path, verdict: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluate.checkpoints.packed.FLOOR_BYTES", 2**20)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(30_000_000)))
    assert "unpacks to more than 20 times its size" in verdict(tmp_path / "bomb.gz")
    nested = gzip.compress(gzip.compress(b"GGUF" + bytes(99)))
    (tmp_path / "twice.gz").write_bytes(nested)
    assert "no known container" in verdict(tmp_path / "twice.gz")


def test_arrays_of_big_vision(tmp_path: Path) -> None:
    # big_vision's npz: names with slashes, Fortran order or not, packed or not.
    arrays = {"params/img/embedding/kernel": np.arange(24.0, dtype="f4").reshape(2, 3, 4), "params/t": np.float32(2)}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "file.npz", **arrays)
        root = open_checkpoint(tmp_path / "file.npz").root
        assert {name: tensor.array().tolist() for name, tensor in root.items()} == {
            name: np.asarray(array).tolist() for name, array in arrays.items()
        }


def test_a_packed_array_that_grows_without_end_is_refused(tmp_path: Path, verdict: Any) -> None:
    np.savez_compressed(tmp_path / "file.npz", w=np.zeros(40_000_000, "f4"))
    assert "unpack to more than 20 times" in verdict(tmp_path / "file.npz")


def test_a_stranger_in_the_metadata_is_never_called(tmp_path: Path, state: dict[str, Tensor], verdict: Any) -> None:
    import pickle

    class Payload:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path / 'executed'}",)

    folder = distributed(tmp_path / "a", state)
    for content in (Payload(), {"state_dict_metadata": Payload()}, [Payload()]):
        (folder / ".metadata").write_bytes(pickle.dumps(content))
        assert "not that of torch.distributed.checkpoint" in verdict(folder)
    assert not (tmp_path / "executed").exists()


def test_run_directories_are_their_backbone(tmp_path: Path) -> None:
    from pretrain.backbones.handover import BackboneMetadata, write_backbone

    module = registry.build("cifar_resnet20")
    metadata = BackboneMetadata(backbone="cifar_resnet20", method="fast_moco")
    write_backbone(tmp_path / "run" / "backbone.safetensors", module.state_dict(), metadata)
    (tmp_path / "run" / "state").mkdir()
    (tmp_path / "run" / "result.json").write_text("{}")
    assert load_backbone(tmp_path / "run").metadata.method == "fast_moco"
    with pytest.raises(InputError, match="no checkpoint file at"):
        load_backbone(tmp_path / "gone")
