"""Detection and instance segmentation: the only importer of detectron2."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

PURE_VERSION = "0.6+pure"
REMEDY = "python -m evaluate.detection.install"


@dataclass(frozen=True)
class Found:
    """The detectron2 that an import takes.

    Attributes:
        version: as its own source says, with the commit where it runs from a clone: "0.6+pure", "0.6+g1a2b3c4".
        folder: where it lies; it may differ from what the environment's records of installations say.
        compiled: whether it has a compiled extension.
    """

    version: str
    folder: Path
    compiled: bool


def found() -> Found | None:
    """The detectron2 that `import detectron2` takes, without importing it; None without one."""
    try:
        spec = importlib.util.find_spec("detectron2")
    except (ValueError, ImportError):  # a module put in place by hand
        return None
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(next(iter(spec.submodule_search_locations)))
    compiled = any(folder.glob("_C*.so")) or any(folder.glob("_C*.pyd"))
    return Found(_version(folder) + _commit(folder), folder, compiled)


def installed() -> str:
    """What of detectron2 is here, without importing it.

    Returns: "0.6+pure" (what `evaluate.detection.install` puts in place), "VERSION compiled" (a real one), or a
    sentence that says what is missing and how to install it.
    """
    here = found()
    if here is None:
        return f"detectron2 is not installed; install it with: {REMEDY}"
    if here.version == PURE_VERSION:
        return here.version
    if here.compiled:
        return f"{here.version} compiled"
    return (
        f"detectron2 {here.version} in {here.folder} has no compiled extension; uninstall it or take it off the path, "
        f"then run: {REMEDY}"
    )


def usable() -> bool:
    """Whether `installed()` names a detectron2 that the adapter can run on."""
    return not installed().startswith("detectron2 ")


def _version(folder: Path) -> str:
    """What the source says of itself; the record of an installation may be another's."""
    try:
        said = re.search(r'^__version__\s*=\s*["\']([^"\']+)', (folder / "__init__.py").read_text(), re.MULTILINE)
    except OSError:
        said = None
    if said:
        return said[1]
    try:
        return importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _commit(folder: Path) -> str:
    """`+gCOMMIT` where the folder is part of a clone, with `-dirty` where that has changes; else nothing."""
    if not (folder.parent / ".git").exists():
        return ""
    describe = ["git", "-C", str(folder.parent), "describe", "--always", "--dirty", "--exclude=*", "--abbrev=10"]
    try:
        told = subprocess.run(describe, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"+g{told}"
