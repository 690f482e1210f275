from __future__ import annotations

import logging
import resource
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pretrain.runtime.errors import RunFailedError
from pretrain.state import StateStore, whole_content


def content(value: float) -> dict:
    optimizer = {"state": {0: {"m": torch.ones(3)}}, "groups": [1, "a"]}
    return {"model": {"w": torch.full((100,), value)}, "optimizer": optimizer}


def test_the_two_newest_are_kept_and_the_newest_is_read(tmp_path):
    store = StateStore(tmp_path)
    assert store.latest() is None
    for step in (5, 10, 15):
        store.save(step, content(step), wait=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000010.pt", "step_00000015.pt"]
    step, state = StateStore(tmp_path).latest()
    assert step == 15
    assert torch.equal(state["model"]["w"], torch.full((100,), 15.0))
    assert state["optimizer"] == {"state": {0: {"m": pytest.approx(torch.ones(3))}}, "groups": [1, "a"]}


def test_a_state_is_what_it_was_when_saved(tmp_path):
    """The loop goes on changing weights in place while the thread writes."""
    state = content(1.0)
    store = StateStore(tmp_path)
    for step in range(1, 6):
        state["model"]["w"].fill_(float(step))
        store.save(step, state)
        state["model"]["w"].fill_(-1.0)
        store.finish()
        assert torch.equal(store.latest()[1]["model"]["w"], torch.full((100,), float(step)))


@given(where=st.floats(0, 1), how=st.sampled_from(["cut", "flip"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_falls_back_to_the_state_before(tmp_path_factory, caplog, where, how):
    folder = tmp_path_factory.mktemp("states")
    store = StateStore(folder)
    store.save(1, content(1.0), wait=True)
    store.save(2, content(2.0), wait=True)
    newest = folder / "step_00000002.pt"
    data = bytearray(newest.read_bytes())
    at = int(where * (len(data) - 1))
    if how == "cut":
        del data[at:]
    else:
        data[at] ^= 0x10
    newest.write_bytes(data)
    with caplog.at_level(logging.WARNING, logger="fastmoco"):
        step, state = store.latest()
    assert step == 1
    assert "step_00000002.pt is damaged" in caplog.text
    assert torch.equal(state["model"]["w"], torch.full((100,), 1.0))


def test_what_a_killed_process_left_half_written_is_removed_by_the_next_save(tmp_path):
    """SIGKILL in the middle of a save left 450 MB of a ResNet-50 for ever, at each kill."""
    left, foreign = tmp_path / ".step_00000007.pt.x1y2.partial", tmp_path / ".notes.partial"
    left.write_bytes(b"half")
    foreign.write_bytes(b"of somebody else")
    StateStore(tmp_path).latest()
    assert left.exists()
    StateStore(tmp_path).save(8, content(1.0), wait=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".notes.partial", "step_00000008.pt"]


def test_foreign_files_are_damage(tmp_path):
    path = tmp_path / "step_00000001.pt"
    path.write_bytes(b"not an archive")
    assert whole_content(path) is None
    assert StateStore(tmp_path).latest() is None


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from pretrain.runtime.errors import RunFailedError
from pretrain.state import StateStore
store = StateStore(Path(sys.argv[1]))
store.save(1, {"w": torch.zeros(10)}, wait=True)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    store.save(2, {"w": torch.zeros(1_000_000)}, wait=True)
except RunFailedError as error:
    print(error)
"""


def test_a_disk_that_takes_no_more_ends_in_a_sentence(tmp_path):
    """A limit on the size of files stands for the full disk: writing fails in the middle in the same way."""
    assert resource.RLIMIT_FSIZE is not None
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"the state could not be saved in {tmp_path}: ")
    assert "the states before it are intact" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001.pt"]
    assert StateStore(tmp_path).latest()[0] == 1


def test_a_failed_write_is_told_by_the_next_save(tmp_path, monkeypatch):
    store = StateStore(tmp_path / "states")
    monkeypatch.setattr("pretrain.state.replacing", _no_space)
    store.save(1, content(1.0))
    with pytest.raises(RunFailedError, match="No space left on device"):
        store.save(2, content(2.0))


def _no_space(path):
    raise OSError(28, "No space left on device")
