"""Which files of a folder hold its weights, and their content as one: shards, and what training frameworks leave.

The same choice serves folders on the disk and the listings of a hub.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from evaluate.checkpoints.beside import read_beside
from evaluate.checkpoints.containers import Content, open_file
from evaluate.checkpoints.file_bytes import FileBytes, OpenFile
from evaluate.checkpoints.limits import listed, one_sentence, readable
from evaluate.checkpoints.recognise import START_BYTES, foreign
from evaluate.checkpoints.sources.distributed import METADATA, open_distributed
from evaluate.checkpoints.tensors import StoredTensor
from pretrain.runtime.errors import InputError

INDEX = ".index.json"
# In the order of preference: what libraries save, safetensors before pickles, and our own.
NAMES = (
    "backbone.safetensors",
    "model.safetensors.index.json",
    "model.safetensors",
    "open_clip_model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
_SUFFIXES = (".pth", ".pt", ".tar", ".ckpt", ".pkl", ".safetensors", ".bin", ".npz", ".gz", ".xz", ".zst")
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.\w+$")
# The index of a thousand shards of a language model has some megabytes.
INDEX_BYTES = 16 * 2**20
SHARDS = 1000
FILES = 100_000


def open_checkpoint(path: Path) -> Content:
    """Read the structure of a file, or of the files that hold a folder's weights; tensors are read when asked for.

    Raises:
        InputError: see `evaluate.checkpoints.containers.open_file`; a folder that holds no weights or several.
    """
    path = Path(path)
    with one_sentence(path):
        if path.name.endswith(INDEX) and path.is_file():
            return _sharded(path.parent, path.name, path)
        if not path.is_dir():
            if _SHARD.search(path.name) and list(path.parent.glob(f"*{INDEX}")):
                raise InputError(f"{path} is one of several shards; give the folder {path.parent}")
            return open_file(path)
        names = _names(path)
        inside = _inside(path, names)
        if inside is not None:
            return open_checkpoint(inside)
        if METADATA in names:
            return open_distributed(path)
        name = choose(str(path), names)
        return _sharded(path, name, path) if name.endswith(INDEX) else open_file(path / name)


def choose(where: str, names: Collection[str]) -> str:
    """The one of a folder's file names that holds its weights; for sharded weights their index.

    Raises:
        InputError: none does, or several do and no rule prefers one; what to do where others can merge them.
    """
    for name in NAMES:
        if name in names:
            return name
    if any(re.match(r"zero_pp_rank_\d+_mp_rank_\d+_model_states\.pt$", name) for name in names):
        raise InputError(
            f"{where} holds the shards of DeepSpeed's ZeRO stage 3, no whole tensor; merge them with "
            "`python zero_to_fp32.py FOLDER OUT` (the script lies in the checkpoint's folder) and give OUT"
        )
    ranks = sorted(name for name in names if re.match(r"mp_rank_\d+_model_states\.pt$", name))
    if len(ranks) > 1:
        raise InputError(
            f"{where} holds a model split over {len(ranks)} tensor-parallel ranks of DeepSpeed; merge it with "
            "DeepSpeed's `ds_to_universal.py` or save the model whole"
        )
    if ranks:
        return ranks[0]
    for name, library in (("tf_model.h5", "TensorFlow's"), ("flax_model.msgpack", "Flax's")):
        if name in names:
            raise InputError(
                f"{where} holds {library} weights alone ({name}); convert them: "
                f"from_pretrained(..., from_{name.split('_')[0]}=True).save_pretrained(OUT)"
            )
    if any(name == "saved_model.pb" or re.search(r"\.ckpt\S*\.index$", name) for name in names):
        raise InputError(f"{where} holds a TensorFlow model; convert it to torch with the project's own script first")
    held = sorted(name for name in names if name.endswith(_SUFFIXES) and not name.startswith("."))
    if len(held) == 1:
        return held[0]
    if held:
        raise InputError(f"{where} holds {len(held)} checkpoints; give one of them: {listed(map(readable, held))}")
    present = listed(sorted(map(readable, names))) or "nothing"
    raise InputError(f"{where} holds no weights that are read here; it holds {present}")


def _names(folder: Path) -> set[str]:
    names = set()
    for entry in folder.iterdir():
        names.add(entry.name)
        if len(names) > FILES:
            raise InputError(f"{folder} holds more than {FILES} files; give the checkpoint itself")
    return names


def _inside(folder: Path, names: Collection[str]) -> Path | None:
    """The folder within, where frameworks put one around what they save."""
    if "latest" in names:  # DeepSpeed's, which names the newest; Lightning's around it
        tag = bytes(FileBytes(OpenFile(folder / "latest"))[:200]).decode("utf-8", "replace").strip()
        if re.fullmatch(r"[\w.-]+", tag) and ".." not in tag and (folder / tag).is_dir():
            return folder / tag
    if METADATA in names or any(name in names for name in NAMES):
        return None
    inner = [folder / name for name in ("pytorch_model_fsdp_0", "checkpoint", "backbone") if (folder / name).is_dir()]
    return inner[0] if len(inner) == 1 else None


def shards_of(index: bytes, where: str) -> dict[str, str]:
    """Tensor name -> file name, from the index of sharded weights. Raises InputError for one that is none."""
    try:
        table = json.loads(index)["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{where} is no index of sharded weights: it has no weight_map") from None
    plain = isinstance(table, dict) and all(
        isinstance(file, str) and re.fullmatch(r"[\w.-]+", file) and not file.startswith(".") for file in table.values()
    )
    if not plain or not table or len(set(table.values())) > SHARDS:
        raise InputError(f"{where} is no index of sharded weights: its weight_map names no files beside it")
    return table


def _sharded(folder: Path, index: str, named: Path) -> Content:
    file = OpenFile(folder / index)
    if file.size > INDEX_BYTES:
        raise InputError(f"{folder / index} has {file.size} bytes, more than any index")
    text = bytes(FileBytes(file))
    if (said := foreign(file.path, text[:START_BYTES])) is not None and not text.startswith((b"{", b"[")):
        raise InputError(f"{file.path} is refused: {said}")
    table = shards_of(text, str(file.path))
    parts = {name: open_file(folder / name) for name in dict.fromkeys(table.values())}
    merged: dict[str, Any] = {}
    for name, part in parts.items():
        tensors = _flat(part)
        if twice := merged.keys() & tensors.keys():
            raise InputError(f"{folder} holds tensor {readable(min(twice))} in two shards")
        merged |= tensors
        if absent := [key for key, at in table.items() if at == name and key not in tensors]:
            raise InputError(
                f"{folder / name} lacks tensors that the index places there: {listed(map(readable, absent))}"
            )
    first = next(iter(parts.values()))
    files = [opened for part in parts.values() for opened in part.files]
    return Content(named, first.container, merged, tuple(files), first.header, read_beside(folder, belongs=True))


def _flat(part: Content) -> dict[str, StoredTensor]:
    root = part.root
    if not isinstance(root, dict) or not all(isinstance(value, StoredTensor) for value in root.values()):
        raise InputError(f"{part.path} is no shard: it holds other things than named tensors")
    return root
