"""To look into a file takes less than half its size in memory of its own: its numbers are mapped and read once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

# Memory of its own: pages that no file stands behind, at their highest. Mapped pages of the file come and go.
PROGRAM = """
import sys, threading
from evaluate.checkpoints.inspect import inspect_file

def anonymous_bytes():
    with open("/proc/self/status") as status:
        return 1024 * sum(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

highest, done = [anonymous_bytes()], threading.Event()
start = highest[0]
def watch():
    while not done.wait(0.002):
        highest[0] = max(highest[0], anonymous_bytes())
watcher = threading.Thread(target=watch)
watcher.start()
seen = inspect_file(sys.argv[1])
done.set()
watcher.join()
resident = 1024 * sum(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM"))
print(seen.loads, highest[0] - start, resident, "torch" in sys.modules)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_memory(tmp_path: Path, peers: Any, legacy: bool) -> None:
    path = tmp_path / "resnet50.pth"
    torch.save(peers.resnet(0, name="resnet50").state_dict(), path, _use_new_zipfile_serialization=not legacy)
    size = path.stat().st_size
    assert size > 90e6
    ran = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True, check=True)
    loads, own, resident, torch_came = ran.stdout.split()
    assert (loads, torch_came) == ("True", "False")
    assert int(own) < 0.5 * size
    assert int(resident) < 1.5 * size + 60e6  # with the interpreter, numpy and pydantic, which take about 50 MB
