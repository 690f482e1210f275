"""The first ten minutes on a GPU: is it right, how fast is it, does it recover. One JSON that survives being cut.

python -m benchmarks.perf.gpu [--plan] [--out gpu.json] [--minutes 10] [--only PART]... [--device cuda] [--small]

The file is written anew after every part, whole or not at all. A part that fails says why and the next one runs; a part
that no longer fits into the time is left out and said. `--small` runs everything at the size of a test, on any device.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from benchmarks.perf.gpu_parts import PARTS, Machine
from pretrain.runtime.files import write_json


def plan(parts: list[str]) -> str:
    """What would run, with the seconds that each part may take."""
    rows = [f"{name:<12}{PARTS[name].seconds:>5} s  {PARTS[name].what}" for name in parts]
    total = sum(PARTS[name].seconds for name in parts)
    return "\n".join([*rows, f"{'in all':<12}{total:>5} s"])


def describe(device: torch.device) -> dict[str, Any]:
    """The device and the versions that its figures hold for."""
    found: dict[str, Any] = {"device": str(device), "python": platform.python_version(), "torch": torch.__version__}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"name": properties.name, "memory_bytes": properties.total_memory, "cuda": torch.version.cuda}
    for package in ("torchvision", "timm", "numpy", "fastmoco"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def run(machine: Machine, parts: list[str], out: Path, seconds: float) -> dict[str, Any]:
    """Run the parts that fit into `seconds`, writing `out` after each; what was found, by part."""
    began = time.monotonic()
    found: dict[str, Any] = {"machine": describe(machine.device), "small": machine.small, "parts": {}}
    write_json(out, found)
    for name in parts:
        part = PARTS[name]
        left = seconds - (time.monotonic() - began)
        started = time.monotonic()
        if left < part.seconds / 2:
            found["parts"][name] = {"left_out": f"{left:.0f} s were left, it may take {part.seconds}"}
        else:
            try:
                found["parts"][name] = part.run(machine)
            except Exception as error:  # whatever a GPU brings: it is told, and the next part runs
                last = traceback.extract_tb(error.__traceback__)[-1]
                where = f"{Path(last.filename).name}:{last.lineno}"
                found["parts"][name] = {"failed": f"{type(error).__name__} at {where}: {error}"[:2000]}
            found["parts"][name]["wall_s"] = round(time.monotonic() - started, 1)
        write_json(out, found)
        print(f"{name}: {found['parts'][name]}", flush=True)
    return found


def main() -> int:
    """Exit code 0 when every part ran and none failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", action="store_true", help="print the parts and their time budget, and run nothing")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", choices=list(PARTS), action="append", help="may be given again")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="the size of a test, for any device")
    given = parser.parse_args()
    parts = given.only or list(PARTS)
    if given.plan:
        print(plan(parts))
        return 0
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine offers no CUDA device; --small --device cpu tries the script without one")
    found = run(Machine(torch.device(given.device), given.small), parts, given.out, given.minutes * 60)
    return int(any("failed" in part or "left_out" in part for part in found["parts"].values()))


if __name__ == "__main__":
    sys.exit(main())
