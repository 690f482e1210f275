"""Detection and instance segmentation: the only importer of detectron2."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path

PURE_VERSION = "0.6+pure"
REMEDY = "python -m evaluate.detection.install"


def installed() -> str:
    """What of detectron2 is here, without importing it.

    Returns: "0.6+pure" (what `evaluate.detection.install` puts in place), "VERSION compiled" (a real one), or a
    sentence that says what is missing and how to install it.
    """
    spec = importlib.util.find_spec("detectron2")
    if spec is None or not spec.submodule_search_locations:
        return f"detectron2 is not installed; install it with: {REMEDY}"
    folder = Path(next(iter(spec.submodule_search_locations)))
    version = _version()
    if version == PURE_VERSION:
        return version
    if any(folder.glob("_C*.so")) or any(folder.glob("_C*.pyd")):
        return f"{version} compiled"
    return f"detectron2 {version} in {folder} has no compiled extension; uninstall it, then run: {REMEDY}"


def usable() -> bool:
    """Whether `installed()` names a detectron2 that the adapter can run on."""
    return not installed().startswith("detectron2 ")


def _version() -> str:
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"  # a checkout on the path, with no record of an installation
