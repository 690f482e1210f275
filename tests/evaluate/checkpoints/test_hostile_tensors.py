"""Archives and tensors that lie: about their sizes, their storages, their paths, their headers."""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from evaluate.checkpoints.sources.folders import open_checkpoint
from evaluate.checkpoints.tensors import StoredTensor
from pretrain.runtime.errors import InputError


class Calls:
    """Pickles as a call of whatever it was given."""

    def __init__(self, function: object, *args: object) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[object, ...]:
        return self.function, self.args


def save_tensor(path: Path, storage_bytes: int, numel: int, *, offset: int, size: object, stride: object) -> None:
    """A torch zip whose one tensor declares what the caller wishes."""

    class Pickler(pickle._Pickler):
        def persistent_id(self, obj: object) -> object:
            return obj if isinstance(obj, tuple) and obj and obj[0] == "storage" else None

    stream = io.BytesIO()
    rebuild = Calls(
        torch._utils._rebuild_tensor_v2,
        ("storage", torch.FloatStorage, "0", "cpu", numel),
        offset,
        size,
        stride,
        False,
        OrderedDict(),
    )
    Pickler(stream, 2).dump({"w": rebuild})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/data/0", b"\0" * storage_bytes)


def test_the_crafted_tensor_is_read_when_it_is_honest(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    save_tensor(path, 48, 12, offset=0, size=(3, 4), stride=(1, 3))
    tensor = open_checkpoint(path).root["w"]
    assert isinstance(tensor, StoredTensor)
    assert tensor.array().shape == (3, 4)
    assert torch.equal(tensor.torch(), torch.zeros(3, 4))


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"offset": 0, "size": (2**40,), "stride": (1,)}, "leaves its storage"),
        ({"offset": 0, "size": (2**40,), "stride": (0,)}, "share memory"),
        ({"offset": 0, "size": (4, 4), "stride": (1, 1)}, "share memory"),
        ({"offset": 9, "size": (4,), "stride": (1,)}, "leaves its storage"),
        ({"offset": -1, "size": (4,), "stride": (1,)}, "sizes that are none"),
        ({"offset": 0, "size": (4,), "stride": (-1,)}, "sizes that are none"),
        ({"offset": 0, "size": (2**60,), "stride": (1,)}, "sizes that are none"),
        ({"offset": 0, "size": (True,), "stride": (1,)}, "sizes that are none"),
        ({"offset": 0, "size": (1,) * 40, "stride": (1,) * 40}, "sizes that are none"),
        ({"offset": 0, "size": (4, 2), "stride": (1,)}, "declares shape"),
        ({"offset": 0, "size": "12", "stride": (1,)}, "sizes that are none"),
    ],
)
def test_tensors_that_leave_their_storage_are_refused(tmp_path: Path, declared: dict[str, object], said: str) -> None:
    path = tmp_path / "file.pth"
    save_tensor(path, 48, 12, **declared)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=said):
        open_checkpoint(path)


def test_a_storage_longer_than_its_entry_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    save_tensor(path, 16, 2**40, offset=0, size=(2**40,), stride=(1,))
    with pytest.raises(InputError, match="fewer than its"):
        open_checkpoint(path)


def test_a_compressed_archive_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"]" * 50_000_000)
    with pytest.raises(InputError, match="compressed"):
        open_checkpoint(path)


@pytest.mark.parametrize("name", ["/etc/data.pkl", "../../data.pkl", "archive/../data.pkl"])
def test_paths_in_an_archive_lead_nowhere(tmp_path: Path, name: str) -> None:
    path = tmp_path / "file.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, pickle.dumps({"w": 1}, 2))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"without torch's data\.pkl"):
        open_checkpoint(path)
    assert sorted(tmp_path.iterdir()) == before


def test_a_torchscript_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("script/data.pkl", pickle.dumps({}, 2))
        archive.writestr("script/code/__torch__.py", "import os")
        archive.writestr("script/constants.pkl", pickle.dumps((), 2))
    with pytest.raises(InputError, match="TorchScript"):
        open_checkpoint(path)


def safetensors_file(path: Path, header: object, body: bytes = b"") -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ({"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 8]}}, "leaves its storage"),
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4000]}}, "lies outside"),
        ({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}}, "does not fill"),
        ({"w": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}}, "sizes that are none"),
        ({"w": {"dtype": "X32", "shape": [2], "data_offsets": [0, 8]}}, "not one of safetensors"),
        ({"w": [1, 2]}, "not one of safetensors"),
        (
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
            },
            "share bytes",
        ),
        (b'{"a": 1, "a": 2}', "not JSON"),
        (b'{"a": ' + b"[" * 20_000, "not JSON"),
    ],
)
def test_lying_safetensors_headers_are_refused(tmp_path: Path, header: object, said: str) -> None:
    path = tmp_path / "file.safetensors"
    safetensors_file(path, header, b"\0" * 8)
    with pytest.raises(InputError, match=said):
        open_checkpoint(path)


def test_arrays_of_objects_in_an_npz_are_refused(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    path = tmp_path / "file.npz"
    np.savez(path, w=np.arange(3.0), evil=np.array([Calls(os.system, f"touch {marker}")], dtype=object))
    with pytest.raises(InputError, match="numpy type '|O' is not read"):
        open_checkpoint(path)
    assert not marker.exists()
    np.savez(path, w=np.asfortranarray(np.arange(6.0).reshape(2, 3)))
    assert open_checkpoint(path).root["w"].array().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_entries_that_are_one_and_the_same_cost_nothing(tmp_path: Path) -> None:
    # A thousand entries of the directory that point at the same bytes: views of the file, never copies.
    path = tmp_path / "file.npz"
    np.savez(path, w=np.zeros(1_000_000))
    with zipfile.ZipFile(path, "a") as archive:
        info = archive.infolist()[0]
        for index in range(1000):
            twin = copy.copy(info)
            twin.filename = f"w{index}.npy"
            archive.filelist.append(twin)
        archive._didModify = True
    root = open_checkpoint(path).root
    assert len(root) == 1001
    assert path.stat().st_size < 9_000_000
