"""What looking into a checkpoint of 100 MB costs on Linux: seconds and memory, beside torch loading the same file.

python -m benchmarks.perf.inspection [FILE]
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPEATS = 5
# Each in a process of its own: the highest resident memory, less what it was before the file, and the seconds.
_MEASURE = """
import sys, time
{imports}
def resident():  # not getrusage: its maximum begins with that of the process that started this one
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
before, began = resident(), time.perf_counter()
{work}
print(time.perf_counter() - began, resident() - before)
"""
WAYS = {
    "fastmoco inspect": (
        "from evaluate.checkpoints.inspect import inspect_file",
        "assert inspect_file(sys.argv[1]).loads",
    ),
    "torch.load": ("import torch", "torch.load(sys.argv[1], map_location='cpu', weights_only=True)"),
}


def write_checkpoint(path: Path) -> None:
    """A ResNet-50 as MoCo v2's extraction leaves it: 102 MB, every number random."""
    import torch

    from pretrain.backbones.registry import build

    generator = torch.Generator().manual_seed(0)
    state = build("resnet50").state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1.0, generator=generator)
        state[name] = tensor
    torch.save({"state_dict": {f"module.encoder_q.{name}": tensor for name, tensor in state.items()}}, path)


def measured(way: str, path: Path) -> tuple[float, int]:
    """Median seconds and the most bytes of `REPEATS` fresh processes, the file in the page cache."""
    imports, work = WAYS[way]
    program = _MEASURE.format(imports=imports, work=work)
    seconds, grown = [], []
    for _ in range(REPEATS):
        command = [sys.executable, "-c", program, str(path)]
        wall, memory = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        seconds.append(float(wall))
        grown.append(int(memory))
    return statistics.median(seconds), max(grown)


def main(file: str | None = None) -> None:
    """Print the seconds and the memory of each way, and their ratios."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(file) if file else Path(temporary) / "resnet50.pth"
        if file is None:
            write_checkpoint(path)
        size = path.stat().st_size
        path.read_bytes()
        print(f"a file of {size / 1e6:.1f} MB, median of {REPEATS} processes, page cache warm, imports not counted")
        found = {way: measured(way, path) for way in WAYS}
    for way, (seconds, grown) in found.items():
        print(f"{way}: {seconds:.3f} s, {grown / size:.2f} times the file in memory (mapped pages included)")
    ours, theirs = found.values()
    print(f"inspect / torch.load: {ours[0] / theirs[0]:.2f} in time, {ours[1] / theirs[1]:.2f} in memory")


if __name__ == "__main__":
    main(*sys.argv[1:])
