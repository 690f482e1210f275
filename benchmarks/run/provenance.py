"""Where a number comes from: the versions of code and packages, the machine, the device; and the device itself."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.run.reproduce import command
from benchmarks.run.request import Request
from evaluate import detection
from pretrain.runtime.errors import InputError
from results.row import Checkpoint, Data, Protocol, Run

if TYPE_CHECKING:
    import torch

_PACKAGES = (
    "fastmoco",
    "torch",
    "torchvision",
    "numpy",
    "scikit-learn",
    "timm",
    "detectron2",
    "mmsegmentation",
    "mmcv-lite",
)


def describe_run(request: Request) -> Run:
    """What `run.json` says: all of the request, with the versions of code and packages and where it runs."""
    from pretrain.runtime.distributed import ranks_from_environment

    reference = request.checkpoint
    return Run(
        run_id=request.run_id,
        campaign=request.campaign,
        kind=request.kind,
        task=request.task,
        protocol=Protocol(name=request.settings_name, values=request.settings),
        checkpoint=Checkpoint(
            label=reference.label, ref=reference.ref or f"run:{reference.from_run}", sha256=reference.sha256
        )
        if reference
        else None,
        data=Data(name=request.data, identity=request.data_identity),
        seed=request.seed,
        code_version=code_version(),
        packages=package_versions(),
        # A worker's own words name a request file; a user wants the command that does the run by itself.
        command=(command(request) if request.campaign else None) or sys.argv,
        world_size=ranks_from_environment().world_size,
        host=socket.gethostname(),
        started=now(),
    )


def device_for(wish: str) -> torch.device:
    """The device a run computes on: `auto` is the GPU of this rank where there is one.

    Raises:
        InputError: CUDA was asked for and there is none.
    """
    import torch

    from pretrain.runtime.distributed import ranks_from_environment

    if wish == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' was asked for, but this machine offers no CUDA device; use cpu or auto")
    if wish == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", ranks_from_environment().local_rank % torch.cuda.device_count())


def code_version() -> str:
    """The package's version, and the commit where the code runs from a git checkout."""
    version = importlib.metadata.version("fastmoco")
    describe = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        commit = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return version
    return f"{version}+{commit}"


def package_versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a number may depend on."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    # A clone on the path runs in place of what is installed, so its own source is asked.
    detectron2 = detection.found()
    if detectron2 is None:
        versions.pop("detectron2", None)
    else:
        versions["detectron2"] = detectron2.version
    return versions


def device_name(device: torch.device) -> str:
    """The GPU's name; on a CPU, how many threads compute."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({torch.get_num_threads()} threads)"


def peak_mem_bytes() -> int:
    """The most memory this process has held: on the GPU where it used one, else resident."""
    import torch

    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def now() -> str:
    """The time as rows write it: ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
