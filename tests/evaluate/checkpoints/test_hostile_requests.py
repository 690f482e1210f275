"""What hangs, eats memory or ends in a traceback when a reader trusts a file: each is one short sentence instead.

Where a reader that trusts would hang, the test hangs with it and pytest's timeout tells.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evaluate.checkpoints.inspect import inspect_file
from evaluate.checkpoints.load import load_backbone
from pretrain.runtime.errors import InputError


class Calls:
    """Pickles as a call of whatever it was given."""

    def __init__(self, function: object, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[object, ...]:
        return self.function, self.args


def nested(depth: int = 60) -> list[Any]:
    """Each level holds the one below twice: its repr would have 2^depth parts."""
    made: list[Any] = [1]
    for _ in range(depth):
        made = [made, made]
    return made


def torch_zip(path: Path, content: object, **entries: bytes) -> Path:
    """A zip as torch writes it, with any pickle; tuples that begin with "storage" are persistent ids."""

    class Pickler(pickle._Pickler):
        def persistent_id(self, obj: object) -> object:
            return obj if isinstance(obj, tuple) and obj and obj[0] == "storage" else None

    stream = io.BytesIO()
    Pickler(stream, 2).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/data/0", bytes(48))
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def tensor(offset: object = 0, size: object = (3, 4), stride: object = (4, 1), **changed: object) -> Calls:
    """A call that rebuilds a tensor as torch pickles it, with whatever is to be wrong about it."""
    storage = ("storage", changed.get("kind", torch.FloatStorage), changed.get("key", "0"), "cpu", changed.get("n", 12))
    return Calls(torch._utils._rebuild_tensor_v2, storage, offset, size, stride, False, OrderedDict())


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": nested()},
        {"offset": nested()},
        {"stride": nested()},
        {"kind": nested()},
        {"key": nested()},
        {"n": nested()},
        {"size": (10**1000,)},
        {"size": (1.5, 2)},
        {"size": (None,)},
        {"offset": 1.5},
        {"offset": None},
        {"size": "\x1b[2J" * 10_000},
        {"size": (0, 2**47, 2**47)},
        {"size": [0] * 1_000_000},
        {"key": "\x1b[31m"},
        {"key": 10**900},
        {"n": 2**70},
        {"n": float("nan")},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_tensors_of_impossible_parts(tmp_path: Path, verdict: Any, wrong: dict[str, object]) -> None:
    assert len(verdict(torch_zip(tmp_path / "file.pth", {"w": tensor(**wrong)}))) < 400


def test_nested_versions_and_lists_of_the_older_stream(tmp_path: Path, verdict: Any) -> None:
    magic, system = pickle.dumps(0x1950A86A20F9469CFC6C, 2), {"little_endian": True}
    for parts in ([nested(), system, {}, []], [1001, nested(), {}, []], [1001, system, {}, nested()]):
        path = tmp_path / "file.pth"
        path.write_bytes(magic + b"".join(pickle.dumps(part, 2) for part in parts))
        assert len(verdict(path)) < 400


def test_what_is_no_regular_file(tmp_path: Path, verdict: Any) -> None:
    pipe = tmp_path / "pipe.pth"
    os.mkfifo(pipe)
    assert "is a pipe, a socket or a device" in verdict(pipe)
    assert "is a pipe, a socket or a device" in verdict(Path("/dev/zero"))
    loop = tmp_path / "loop.pth"
    loop.symlink_to(loop)
    assert "cannot be read" in verdict(loop)
    assert "cannot be read" in verdict(tmp_path / ("x" * 300))
    assert "no zero byte" in verdict(tmp_path / "a\0b")


def test_what_lies_beside_the_file_is_not_trusted_either(tmp_path: Path, peers: Any, verdict: Any) -> None:
    for name in ("file.bin", "file.pth"):
        torch.save(peers.resnet(0).state_dict(), tmp_path / name)
    os.mkfifo(tmp_path / "config.json")
    assert verdict(tmp_path / "file.pth") == ""  # anybody's, beside such a file
    assert "config.json is no table of JSON" in verdict(tmp_path / "file.bin")
    for text in (
        "[" * 100_000,
        "[1]",
        '{"num_heads": ' + "9" * 100 + "}",
        '{"a": ',
        "\0",
        '{"a": "' + "x" * 2**22 + '"}',
    ):
        (tmp_path / "config.json").unlink()
        (tmp_path / "config.json").write_text(text)
        assert "config.json is no table of JSON" in verdict(tmp_path / "file.bin")
    (tmp_path / "config.json").write_text(
        '{"a": NaN, "b": "\\ud800", "architecture": {"x": [[]]}, "pretrained_cfg": 3}'
    )
    assert verdict(tmp_path / "file.bin") == ""


def test_tables_by_the_ten_thousand(tmp_path: Path, verdict: Any) -> None:
    torch.save({str(index): {"a": torch.ones(1)} for index in range(3000)}, tmp_path / "file.pth")
    assert "no encoder in a known spelling" in verdict(tmp_path / "file.pth")
    many = {f"t{index}": {"w": np.float32(1)} for index in range(20)}
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(many | {"a": {"b": np.ones(2)}}))
    assert "no encoder" in verdict(tmp_path / "file.pkl")


def test_bytes_that_belong_to_no_tensor(tmp_path: Path, verdict: Any) -> None:
    entry = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}
    assert "36 of its 48 bytes belong to no tensor" in verdict(safetensors(tmp_path / "x.safetensors", {"w": entry}))


def safetensors(path: Path, header: object, body: bytes = bytes(48)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


@pytest.mark.parametrize(
    "changed",
    [
        {"data_offsets": [0.0, 48.0]},
        {"data_offsets": [None, 48]},
        {"data_offsets": [False, True]},
        {"data_offsets": ["0", "48"]},
        {"data_offsets": {"0": 0, "1": 48}},
        {"data_offsets": [-48, 0]},
        {"shape": [12.0]},
        {"shape": None},
        {"shape": "12"},
        {"shape": {"12": 1}},
        {"shape": [[12]]},
        {"shape": [True, 12]},
        {"shape": [0, 2**47, 2**47], "data_offsets": [0, 0]},
        {"dtype": ["F32"]},
        {"dtype": None},
        {"dtype": "V100000"},
    ],
)
def test_headers_of_impossible_parts(tmp_path: Path, verdict: Any, changed: dict[str, object]) -> None:
    entry = {"dtype": "F32", "shape": [12], "data_offsets": [0, 48]} | changed
    assert len(verdict(safetensors(tmp_path / "file.safetensors", {"w": entry}))) < 400


def test_headers_beyond_measure(tmp_path: Path, verdict: Any) -> None:
    path = tmp_path / "file.safetensors"
    number = b'{"w": {"dtype": "F32", "shape": [' + b"9" * 100_000 + b'], "data_offsets": [0, 48]}}'
    assert "not JSON" in verdict(safetensors(path, number))
    with path.open("wb") as stream:  # 90 MB that take no disk
        stream.write(struct.pack("<Q", 90_000_000) + b'{"w": ')
        stream.truncate(90_000_100)
    assert "its header has 90000000 bytes" in verdict(path)
    many = b",".join(b'"%d":0' % index for index in range(100_001))
    assert "100001 tensors, more than 100000" in verdict(safetensors(path, b"{" + many + b"}"))
    assert "metadata" in verdict(safetensors(path, {"__metadata__": {"a": 1}}))
    assert "metadata" in verdict(safetensors(path, {"__metadata__": [1]}))


BAD_NAMES = ["\x1b[2J\x1b]0;owned\x07", "\u202e", "\ud800", "a\nb", "\x9b31m"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_a_terminal_would_obey(tmp_path: Path, peers: Any, verdict: Any, name: str) -> None:
    state = peers.resnet(0).state_dict()
    odd = {f"{name}.{key}": value for key, value in state.items()}
    torch.save({"state_dict": odd, name: {"x": torch.ones(1)}, "extra": Calls(print, name)}, tmp_path / "file.pth")
    assert verdict(tmp_path / "file.pth") == ""
    assert inspect_file(tmp_path / "file.pth").chosen is not None
    torch.save({f"layer1.{name}": torch.ones(1)} | state, tmp_path / "more.pth")
    assert "no place in resnet18" in verdict(tmp_path / "more.pth")
    entry = {"dtype": "F32", "shape": [12], "data_offsets": [0, 48]}
    verdict(safetensors(tmp_path / "file.safetensors", {f"conv1.{name}": entry, "__metadata__": {name: name}}))
    verdict(safetensors(tmp_path / "ours.safetensors", {"__metadata__": {"fastmoco_backbone": own(backbone=name)}}))


def own(**changes: object) -> str:
    return json.dumps({"backbone": "resnet18", "method": "moco"} | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "resnet999"},
        {"backbone": "timm:no_such_model"},
        {"backbone": "timm:hf-hub:someone/something"},
        {"backbone": "timm:" + "x" * 2_000_000},
        {"method": "m" * 1_000_000},
        {"method": "\x1b[2J"},
        {"epoch": 10**300},
        {"padding": "round"},
        {"normalization": {"std": [0, 1, 1]}},
        {"normalization": {"mean": ["NaN", 0, 0]}},
        {"normalization": {"channels": "GRB"}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_header_of_our_own_that_we_never_wrote(
    tmp_path: Path, peers: Any, verdict: Any, changes: dict[str, object]
) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "file.safetensors"
    save_file(peers.resnet(0).state_dict(), path, {"fastmoco_backbone": own(**changes)})
    assert 0 < len(verdict(path)) < 1000


def test_thousands_of_encoders(tmp_path: Path, verdict: Any) -> None:
    one = torch.ones(1)
    many = {f"e{i}.{name}": one for i in range(2500) for name in ("conv1.weight", "layer1.0.conv1.weight")}
    torch.save(many, tmp_path / "file.pth")
    assert "it holds 2500 encoders" in verdict(tmp_path / "file.pth")
    deep = {"a." * i + name: one for i in range(180) for name in ("conv1.weight", "layer1.0.conv1.weight")}
    torch.save(deep, tmp_path / "deep.pth")
    assert "it holds 180 encoders" in verdict(tmp_path / "deep.pth")


def test_messages_of_megabytes(tmp_path: Path, peers: Any, verdict: Any) -> None:
    state = peers.resnet(0).state_dict()
    torch.save(state | {f"layer1.{i}.weight": torch.ones(1) for i in range(2000)}, tmp_path / "many.pth")
    assert "and 1940 more" in verdict(tmp_path / "many.pth")
    torch.save({"n" * 3_000_000: torch.ones(1)}, tmp_path / "long.pth")
    assert "a name in the file has 3000000 characters" in verdict(tmp_path / "long.pth")
    torch.save({"a" * 300: {"b" * 300: {"conv1.weight": torch.ones(1)}}}, tmp_path / "paths.pth")
    verdict(tmp_path / "paths.pth")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x80\x02\x8b" + struct.pack("<i", 200_000) + b"\x7f" * 200_000 + b".", "a number of 200000 bytes"),
        (b"\x80\x02\x8b" + struct.pack("<i", -5) + b".", "damaged|ends early"),
        (b"\x80\x02(" + b"K\x01" * 1000 + b"tq\x00}" + b"h\x00K\x01s" * 100 + b".", "damaged"),
        (b"\x80\x02c" + b"m" * 5000 + b"\nx\n.", "a line of more than"),
        (b"\x80\x02c" + b"m" * 900 + b"\nx\n.", "names something by 901 characters"),
        (b"S'\\d\\q'\n.", "no encoder|text"),
        (b"I" + b"1" * 5000 + b"\n.", "text|first bytes"),
        (b"(" * 1_000_000 + b".", "damaged|text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_pickles_that_ask_for_too_much(tmp_path: Path, verdict: Any, data: bytes, said: str) -> None:
    path = tmp_path / "file.pkl"
    path.write_bytes(data)
    answer = verdict(path)
    assert any(part in answer for part in said.split("|")), answer


@pytest.mark.parametrize(
    "code", ["O8", "V99999999", "U999999999", "i4,i4,f8", "(9999999,)f8", "M8", "\x1b", "f16", "q"]
)
def test_invented_numpy_types(tmp_path: Path, verdict: Any, code: str) -> None:
    dtype = Calls(np.dtype, code, False, True)
    for kind in (Calls(np._core.multiarray.scalar, dtype, b"12345678"), Calls(np.frombuffer, b"12345678", dtype, (1,))):
        (tmp_path / "file.pkl").write_bytes(pickle.dumps({"w": kind}, 2))
        assert len(verdict(tmp_path / "file.pkl")) < 400
    stream = io.BytesIO()
    header = repr({"descr": code, "fortran_order": False, "shape": (1,)}).encode() + b"\n"
    stream.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))
    with zipfile.ZipFile(tmp_path / "file.npz", "w") as archive:
        archive.writestr("w.npy", stream.getvalue())
    assert "is not read" in verdict(tmp_path / "file.npz")


@pytest.mark.parametrize("shape", ["5", "(1.5,)", "(None,)", "[1]", "(-1,)", "(2**3,)", "(1, (2,))", "'12'", "{}"])
def test_npz_headers_of_impossible_shapes(tmp_path: Path, verdict: Any, shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".encode()
    with zipfile.ZipFile(tmp_path / "file.npz", "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64))
    assert len(verdict(tmp_path / "file.npz")) < 400


def test_a_zip_of_a_million_entries_is_not_listed(tmp_path: Path, verdict: Any) -> None:
    path = tmp_path / "file.pth"
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", *([0] * 17), 0)[:46]
    directory = entry.ljust(46, b"\0") * 500_000
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, len(directory), 8, 0)
    path.write_bytes(b"PK\x03\x04" + bytes(4) + directory + end)
    assert "directory has 23000000 bytes" in verdict(path)


def test_counters_that_are_no_count(tmp_path: Path, peers: Any, verdict: Any) -> None:
    state = peers.resnet(0).state_dict()
    state["bn1.num_batches_tracked"] = torch.ones(7)
    torch.save(state, tmp_path / "file.pth")
    assert "bn1.num_batches_tracked is of shape (7,), not one number" in verdict(tmp_path / "file.pth")
    state["bn1.num_batches_tracked"] = torch.tensor([12.0]).half()
    torch.save(state, tmp_path / "file.pth")
    assert verdict(tmp_path / "file.pth") == ""
    assert load_backbone(tmp_path / "file.pth").module.state_dict()["bn1.num_batches_tracked"] == 12


TRUNCATE = """
import os, sys
from evaluate.checkpoints.sources.folders import open_checkpoint
from evaluate.checkpoints.analyse import analyse
from pretrain.runtime.errors import InputError
path = sys.argv[1]
content = open_checkpoint(path)
os.truncate(path, os.path.getsize(path) // 2)
try:
    for tensor in content.root.values():
        tensor.array().sum()
except InputError as error:
    print(error)
"""


def test_a_file_cut_short_while_it_is_read_kills_nobody(tmp_path: Path, peers: Any) -> None:
    path = tmp_path / "file.pth"
    torch.save(peers.resnet(0).state_dict(), path)
    ran = subprocess.run([sys.executable, "-c", TRUNCATE, str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.returncode
    assert ran.stdout.startswith(f"{path} was cut short while it was read")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, peers: Any, monkeypatch: Any) -> None:
    from evaluate.checkpoints import analyse as module

    path = tmp_path / "file.pth"
    torch.save(peers.resnet(0).state_dict(), path)

    def touched(*arguments: Any) -> Any:
        os.utime(path, ns=(1, 1))
        return decide(*arguments)

    decide = module._decide
    monkeypatch.setattr(module, "_decide", touched)
    with pytest.raises(InputError, match="was changed while it was read"):
        inspect_file(path)


def test_files_are_closed_when_they_have_been_read(tmp_path: Path, peers: Any, verdict: Any) -> None:
    # A campaign looks into thousands of files, and a process may have a thousand open.
    import gc

    torch.save(peers.resnet(0).state_dict(), tmp_path / "whole.pth")
    torch.save({"x": torch.ones(3)}, tmp_path / "other.pth")
    (tmp_path / "damaged.pth").write_bytes(b"\x80\x02R.")
    gc.collect()
    gc.disable()
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for name in ("whole.pth", "other.pth", "damaged.pth"):
            verdict(tmp_path / name)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before
    finally:
        gc.enable()
