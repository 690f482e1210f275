"""What works on this machine, and what to install for the rest."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator

import evaluate.detection
import evaluate.segmentation.library
from benchmarks.launch.slurm import is_here, partitions
from benchmarks.run.provenance import code_version
from pretrain.runtime.errors import InputError

_CORE = ("torch", "torchvision", "numpy", "pydantic", "pandas", "submitit", "simplejpeg", "scikit-learn")


def examine() -> str:
    """One line a fact: what was looked at, what was found, and what to do where something is missing."""
    lines = [
        ("fastmoco", code_version()),
        ("python", f"{platform.python_version()} at {sys.executable}"),
        *((name, _version(name) or "missing: pip install -e .") for name in _CORE),
        ("devices", _devices()),
        ("timm", _version("timm") or "missing: pip install -e '.[timm]' (for timm:MODEL backbones)"),
        ("detectron2", _detectron2()),
        ("mmseg", evaluate.segmentation.library.installed()),
        ("SLURM", _slurm()),
        ("catalog", os.environ.get("FASTMOCO_CATALOG") or "$FASTMOCO_CATALOG is not set: only the generated sets"),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:{width}}  {found}" for name, found in lines)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices() -> str:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{cores} CPU cores; {', '.join(names) if names else 'no CUDA device'}"


def _detectron2() -> str:
    here = evaluate.detection.installed()
    if here == evaluate.detection.PURE_VERSION:
        return f"{here} (by fastmoco's installer; RoIAlign and NMS are torchvision's)"
    return here


def _slurm() -> str:
    if not is_here():
        absent = ", ".join(_absent())
        return f"not here ({absent} not found): campaigns run with --cluster local"
    try:
        return f"partitions {', '.join(partitions())}"
    except InputError as error:
        return f"installed, but {error}"


def _absent() -> Iterator[str]:
    return (command for command in ("sbatch", "squeue", "scontrol", "scancel") if shutil.which(command) is None)
