"""What the files beside a checkpoint say of it: `config.json` of timm and Hugging Face, and how images are prepared."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

# Hugging Face's model and image processor, timm's model (`config.json` too), and open_clip's.
NAMES = ("config.json", "preprocessor_config.json", "open_clip_config.json")
# Such tables are a few kilobytes; those that list a thousand classes have a hundred.
LIMIT_BYTES = 4 * 2**20


def read_beside(folder: Path) -> dict[str, dict[str, Any]]:
    """The JSON tables of `NAMES` in a folder, those that are there and are tables; nothing else is opened."""
    found = ((name, read_table(folder / name)) for name in NAMES)
    return {name: table for name, table in found if table}


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def read_table(path: Path) -> dict[str, Any]:
    """The table of a JSON file; empty where there is none, or what is there is no table of a sensible size."""
    try:
        # Not blocking: beside a stranger's file even a pipe may bear this name.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > LIMIT_BYTES:
                return {}
            table = json.loads(stream.read(LIMIT_BYTES), parse_constant=_no_number)
    except (OSError, ValueError, RecursionError):
        return {}
    return table if isinstance(table, dict) else {}
