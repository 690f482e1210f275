"""Where things lie that can be made again: `$FASTMOCO_CACHE`, else `~/.cache/fastmoco`."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """The cache's directory, absolute; it need not exist yet."""
    given = os.environ.get("FASTMOCO_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fastmoco"
