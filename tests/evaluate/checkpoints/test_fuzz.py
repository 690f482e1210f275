"""Random damage to files of every container: each is read or refused in a sentence, and never anything else.

A gate of seconds here; `make fuzz` tries many times more with new random numbers, and keeps every file that breaks the
promise in `seeds/`, from where it is tried again for ever after.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from pretrain.backbones import registry

SEEDS = Path(__file__).with_name("seeds")
# How many files each test tries; with a number given they are drawn anew each time.
EXAMPLES = int(os.environ.get("FASTMOCO_FUZZ_EXAMPLES", "0"))
FUZZ = settings(
    deadline=None,
    max_examples=EXAMPLES or 60,
    derandomize=not EXAMPLES,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink] if not EXAMPLES else [Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def honest() -> dict[str, bytes]:
    """One whole checkpoint in each container."""
    torch.manual_seed(0)
    state = registry.build("cifar_resnet20").state_dict()
    made = {"safetensors": save(state, {"format": "pt"})}
    for name, new in (("zip", True), ("legacy", False)):
        stream = io.BytesIO()
        torch.save({"epoch": 3, "state_dict": state}, stream, _use_new_zipfile_serialization=new)
        made[name] = stream.getvalue()
    arrays = {name: tensor.numpy() for name, tensor in state.items()}
    made |= {f"pickle {protocol}": pickle.dumps({"model": arrays}, protocol) for protocol in (0, 2, 4)}
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    made["npz"] = stream.getvalue()
    return made


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory, verdict: Callable[[Path], str]) -> Callable[[bytes], str]:
    """The verdict on a file of these bytes; bytes on which the reader breaks its promise are kept."""
    path = tmp_path_factory.mktemp("fuzz") / "file.bin"

    def check(data: bytes) -> str:
        path.write_bytes(data)
        try:
            return verdict(path)
        except BaseException:
            if EXAMPLES:
                SEEDS.mkdir(exist_ok=True)
                (SEEDS / f"{hashlib.sha256(data).hexdigest()[:12]}.bin").write_bytes(data)
            raise

    return check


def test_honest_files_load(honest: dict[str, bytes], tried: Callable[[bytes], str]) -> None:
    assert {name: tried(data) for name, data in honest.items()} == dict.fromkeys(honest, "")


@pytest.mark.parametrize("seed", sorted(SEEDS.glob("*.bin")), ids=lambda path: path.stem)
def test_what_was_once_found(seed: Path, tried: Callable[[bytes], str]) -> None:
    tried(seed.read_bytes())


PIECES = st.sampled_from([b"\0", b"\xff", b"\x80\x02", b".", b"q\0", b"h\0", b"(", b"t", b"R", b"\x7f" * 4, b"]", b"}"])
# Structure stands at the ends of a file, numbers between: most of the damage goes where it matters.
PLACES = st.integers(0, 3000) | st.integers(-3000, -1) | st.integers(0, 10**7)
EDITS = st.lists(
    st.tuples(
        PLACES, st.sampled_from(["replace", "insert", "delete", "cut", "repeat"]), PIECES | st.binary(max_size=9)
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("container", ["safetensors", "zip", "legacy", "pickle 0", "pickle 2", "pickle 4", "npz"])
def test_damaged_files(honest: dict[str, bytes], tried: Callable[[bytes], str], container: str) -> None:
    @FUZZ
    @given(edits=EDITS)
    def run(edits: list[tuple[int, str, bytes]]) -> None:
        data = honest[container]
        for place, how, piece in edits:
            at = place % max(len(data), 1)
            data = {
                "replace": data[:at] + piece + data[at + len(piece) :],
                "insert": data[:at] + piece + data[at:],
                "delete": data[:at] + data[at + 1 + len(piece) :],
                "cut": data[:at],
                "repeat": data[: at + 40] + data[at:],
            }[how]
        tried(data)

    run()


ODD_TEXT = st.text(max_size=8) | st.sampled_from(
    ["conv1.weight", "module.", "\x1b[2J", "\ud800", "x" * 500, "0" * 5000]
)
ODD_NUMBER = st.sampled_from([0, 1, 3, -1, 2**31, 2**47, 2**63, 2**64, 10**50, 0.5, float("nan"), True, None])
ODD = st.recursive(
    ODD_NUMBER | ODD_TEXT | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD_TEXT, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=12,
)
JSON = st.recursive(
    ODD_NUMBER | ODD_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ODD_TEXT, inner, max_size=3),
    max_leaves=12,
)


@FUZZ
@given(
    header=st.dictionaries(ODD_TEXT, JSON | st.fixed_dictionaries({"dtype": JSON, "shape": JSON, "data_offsets": JSON}))
)
def test_headers_of_anything(tried: Callable[[bytes], str], header: Any) -> None:
    text = json.dumps(header).encode()
    tried(struct.pack("<Q", len(text)) + text + bytes(64))


class Calls:
    """Pickles as a call of whatever it was given."""

    def __init__(self, function: object, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[object, ...]:
        return self.function, self.args


FUNCTIONS = st.sampled_from(
    [
        torch._utils._rebuild_tensor_v2,
        torch._utils._rebuild_tensor_v3,
        torch._utils._rebuild_parameter,
        torch._tensor._rebuild_from_type_v2,
        np._core.multiarray._reconstruct,
        np._core.multiarray.scalar,
        np.dtype,
        np.frombuffer,
        dict,
        list,
        set,
        bytearray,
        print,
    ]
)
STORAGE = st.tuples(
    st.just("storage"), st.just(torch.FloatStorage) | ODD, st.just("0") | ODD, st.just("cpu"), st.just(12) | ODD
)
CALLS = st.recursive(
    STORAGE | ODD,
    lambda inner: st.builds(lambda function, args: Calls(function, *args), FUNCTIONS, st.lists(inner, max_size=8)),
    max_leaves=8,
)


@FUZZ
@given(value=st.dictionaries(ODD_TEXT, CALLS, max_size=3), protocol=st.sampled_from([0, 2, 4]), zipped=st.booleans())
def test_calls_of_anything(tried: Callable[[bytes], str], value: Any, protocol: int, zipped: bool) -> None:
    class Pickler(pickle._Pickler):
        def persistent_id(self, obj: object) -> object:
            return obj if zipped and isinstance(obj, tuple) and obj and obj[0] == "storage" else None

    stream = io.BytesIO()
    try:
        Pickler(stream, protocol).dump(value)
    except (pickle.PicklingError, UnicodeEncodeError):  # of protocol 0, which has no word for some of it
        return
    data = stream.getvalue()
    if zipped:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("archive/data.pkl", data)
            archive.writestr("archive/data/0", bytes(48))
        data = stream.getvalue()
    tried(data)


OPCODES = st.sampled_from(
    [bytes([code]) for code in (*b"NIJKMLGFSTUVXCB])}(.0123ltdRbcioaesuqrphgjPQ", *range(128, 153))]
)


@FUZZ
@given(codes=st.lists(st.tuples(OPCODES, st.binary(max_size=5) | st.sampled_from([b"", b"\n", b"1\n", b"os\nx\n"]))))
def test_opcodes_in_any_order(tried: Callable[[bytes], str], codes: list[tuple[bytes, bytes]]) -> None:
    tried(b"\x80\x04" + b"".join(code + operand for code, operand in codes) + b".")
