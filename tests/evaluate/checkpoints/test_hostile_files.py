"""A file from a stranger never runs anything, and never asks for much more memory than it is long."""

from __future__ import annotations

import builtins
import contextlib
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evaluate.checkpoints.inert import Record
from evaluate.checkpoints.pickle_stack import FLOOR_BYTES, TIMES_FILE_SIZE
from evaluate.checkpoints.rebuild import ArrayShell, Rebuild
from evaluate.checkpoints.sources.folders import open_checkpoint
from evaluate.checkpoints.tensors import StoredTensor
from pretrain.runtime.errors import InputError

PROTOCOLS = range(6)


class Calls:
    """Pickles as a call of whatever it was given."""

    def __init__(self, function: object, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[object, ...]:
        return self.function, self.args


def payloads(marker: Path) -> dict[str, object]:
    touch = f"open({str(marker)!r}, 'w').close()"
    command = f"touch {marker}"
    return {
        "os.system": Calls(os.system, command),
        "subprocess": Calls(subprocess.check_output, ["touch", str(marker)]),
        "eval": Calls(builtins.eval, f"__import__('os').system({command!r})"),
        "exec": Calls(builtins.exec, touch),
        "getattr": Calls(getattr, Calls(builtins.__import__, "os"), "system"),
        "open": Calls(builtins.open, str(marker), "w"),
        "in a list": [1, [Calls(os.system, command)], 2],
        "in a dict": {"state_dict": {"conv1.weight": Calls(os.system, command)}},
        "as arguments": Calls(OrderedDict, Calls(list, Calls(os.system, command))),
        "in a tuple, nested": ((((Calls(os.system, command),),),),),
        "path": Calls(Path, str(marker)),
        "torch.load": Calls(torch.load, str(marker)),
        "numpy": Calls(np.save, str(marker), 1),
        "hub": Calls(torch.hub.load, str(marker), "x"),
    }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", payloads(Path("x")))
def test_a_payload_becomes_a_record(tmp_path: Path, name: str, protocol: int) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps(payloads(marker)[name], protocol))
    content = open_checkpoint(path)
    assert content.container == "pickle"
    assert not marker.exists()
    assert find_record(content.root) is not None
    assert not list(tmp_path.glob("executed*"))


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", payloads(Path("x")))
def test_a_payload_in_a_torch_file_becomes_a_record(tmp_path: Path, name: str, legacy: bool) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "file.pth"
    torch.save(
        {"model": {"w": torch.arange(3.0)}, "x": payloads(marker)[name]},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    root = open_checkpoint(path).root
    assert not marker.exists()
    assert root["model"]["w"].array().tolist() == [0.0, 1.0, 2.0]
    assert find_record(root["x"]) is not None


def find_record(value: object) -> Record | None:
    if isinstance(value, Record):
        return value
    parts = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else []
    return next((found for part in parts if (found := find_record(part)) is not None), None)


def test_a_payload_in_a_persistent_id_is_never_a_storage(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    pickled = pickle.dumps(("storage", Calls(os.system, f"touch {marker}"), "0", "cpu", 1), 2)[:-1] + b"Q."
    path = tmp_path / "file.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", b"\0" * 4)
    with pytest.raises(InputError, match="storages of type"):
        open_checkpoint(path)
    assert not marker.exists()


def test_setting_state_on_names_changes_nothing(tmp_path: Path) -> None:
    # BUILD on a bare class: Python's unpickler would set attributes of the class itself.
    path = tmp_path / "file.pkl"
    path.write_bytes(b"\x80\x02cbuiltins\nint\n}X\x08\x00\x00\x00__call__K\x01sb.")
    with pytest.raises(InputError, match="damaged"):
        open_checkpoint(path)
    assert not hasattr(int, "__setstate__")


def machine(data: bytes) -> object:
    return Rebuild().read(memoryview(data), len(data))[0]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "damaged"),
        (b"\x80\x02", "damaged"),
        (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "ends early"),
        (b"\x80\x02B\xff\xff\xff\xffx.", "ends early"),
        (b"\x80\x02J\x00", "ends early"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02R.", "damaged"),
        (b"\x80\x02\x82\x01.", "opcode 0x82"),
        (b"\x80\x05\x97.", "opcode 0x97"),
        (b"\x80\x02]]s.", "damaged"),
        (b"\x80\x02}]K\x01s.", "damaged"),
        (b"\x80\x02\xff.", "damaged"),
        (b"L" + b"9" * 10_000 + b"\n.", "a line of more than 4096 bytes"),
        (b"\x80\x02(((((.", "damaged"),
    ],
)
def test_damaged_pickles_are_refused(data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=said):
        machine(data)


@pytest.mark.parametrize("piece", [b"]", b"}", b"\x8f", b")\x85", b"N\x94", b"K\x01\x94", b"cos\nsystem\n"])
def test_one_byte_objects_by_the_million_are_refused(piece: bytes) -> None:
    with pytest.raises(InputError, match="more memory"):
        machine(b"\x80\x04" + piece * 5_000_000 + b".")


def test_text_that_is_copied_again_and_again_is_refused() -> None:
    text = b"X" + struct.pack("<I", 1_000_000) + b"x" * 1_000_000 + b"q\x00X\x06\x00\x00\x00latin1q\x01\x86q\x02"
    again = b"c_codecs\nencode\nh\x02R"
    with pytest.raises(InputError, match="more memory"):
        machine(b"\x80\x02" + text + again * 500 + b".")


def test_shared_nesting_costs_what_it_is_long() -> None:
    # Each level holds the one below twice: as a tree it has 2^2000 leaves, as a graph 2000 nodes.
    level = b"".join(b"(h" + bytes([n % 2]) + b"h" + bytes([n % 2]) + b"lq" + bytes([(n + 1) % 2]) for n in range(2000))
    root = machine(b"\x80\x02]q\x00" + level + b".")
    assert isinstance(root, list)
    assert len(root) == 2
    with pytest.raises(InputError, match="damaged"):  # and hashing such tuples would take for ever
        machine(b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"}h\x00K\x01s.")


@pytest.mark.parametrize("legacy", [True, False])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, legacy: bool) -> None:
    whole, cut = tmp_path / "whole.pth", tmp_path / "cut.pth"
    torch.save({"a": torch.randn(7), "b": torch.randn(5, 3)}, whole, _use_new_zipfile_serialization=not legacy)
    data = whole.read_bytes()
    for length in range(0, len(data), 7):
        cut.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut\.pth"):
            open_checkpoint(cut)


def test_missing_files_and_folders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no checkpoint file at"):
        open_checkpoint(tmp_path / "none.pth")
    with pytest.raises(InputError, match="holds no weights that are read here; it holds nothing"):
        open_checkpoint(tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@given(value=VALUES, protocol=st.sampled_from(PROTOCOLS))
@settings(deadline=None, max_examples=150)
def test_plain_values_read_as_python_reads_them(value: object, protocol: int) -> None:
    assert machine(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_large_arrays_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    # Python 3 spells bytes as text in protocol 2 and below: the file is half as long again, and the text is no attack.
    array = np.random.default_rng(0).integers(0, 256, 40_000_000, dtype="u1")
    path = tmp_path / "file.pkl"
    path.write_bytes(pickle.dumps({"w": array}, protocol))
    read = open_checkpoint(path).root["w"]
    assert isinstance(read, ArrayShell | StoredTensor)
    tensor = read.tensor if isinstance(read, ArrayShell) else read
    assert tensor is not None
    assert np.array_equal(tensor.array(), array)


@given(data=st.binary(max_size=300))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(InputError):  # any other error fails the test
        machine(data + b".")


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("honest")
    state = {"model": OrderedDict(w=torch.arange(12.0).view(3, 4), b=torch.ones(2, dtype=torch.bfloat16)), "epoch": 3}
    torch.save(state, folder / "zip.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    (folder / "plain.pkl").write_bytes(pickle.dumps({"w": np.arange(4.0), "n": np.float32(2)}, 4))
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@given(name=st.sampled_from(["zip.pth", "legacy.pth", "plain.pkl"]), draw=st.data())
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_are_read_or_refused(
    honest: dict[str, bytes], tmp_path: Path, name: str, draw: st.DataObject
) -> None:
    data = bytearray(honest[name])
    for at in draw.draw(st.lists(st.integers(0, len(data) - 1), min_size=1, max_size=4)):
        data[at] = draw.draw(st.integers(0, 255))
    path = tmp_path / name
    path.write_bytes(bytes(data))
    with contextlib.suppress(InputError):  # any other error fails the test
        open_checkpoint(path)


@pytest.mark.parametrize("piece", [b"]", b"\x8f0", b"N\x94", b"\x8c\x02ab"])
def test_memory_stays_within_a_few_times_the_file(tmp_path: Path, piece: bytes) -> None:
    # Measured from outside: a process that reads a hostile pickle of 20 MB under a limit on its address space.
    path = tmp_path / "file.pkl"
    path.write_bytes(b"\x80\x04" + piece * (20_000_000 // len(piece)) + b".")
    program = (
        "import sys\n"
        "from evaluate.checkpoints.sources.folders import open_checkpoint\n"
        "from pretrain.runtime.errors import InputError\n"
        "def highest():  # not getrusage: its maximum begins with that of the process that started this one\n"
        "    lines = open('/proc/self/status')\n"
        "    return next(1024 * int(line.split()[1]) for line in lines if line.startswith('VmHWM'))\n"
        "before = highest()\n"
        "try:\n    open_checkpoint(sys.argv[1])\nexcept InputError:\n    pass\n"
        "print(highest() - before)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    # The budget, the mapped file, and the slack of growing lists.
    assert int(ran.stdout) < 1.1 * (FLOOR_BYTES + (TIMES_FILE_SIZE + 1) * 20_000_000)
