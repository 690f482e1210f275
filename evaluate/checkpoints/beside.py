"""What the files beside a checkpoint say of it: `config.json` of timm and Hugging Face, and how images are prepared."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from pretrain.runtime.errors import InputError

# Hugging Face's model and image processor, timm's model (`config.json` too), and open_clip's.
NAMES = ("config.json", "preprocessor_config.json", "open_clip_config.json")
# Such tables are a few kilobytes; those that list a thousand classes have a hundred.
LIMIT_BYTES = 4 * 2**20
DIGITS = 18


def read_beside(folder: Path, *, belongs: bool) -> dict[str, dict[str, Any]]:
    """The JSON tables of `NAMES` in a folder, those that are there; nothing else is opened.

    Args:
        belongs: they were written with the weights, as a library's folder has them. Elsewhere a file of such a name may
            be anybody's, and one that is no table is passed over.

    Raises:
        InputError: a file that belongs to the weights is no table: it may say what they compute.
    """
    found = {}
    for name in NAMES:
        table = read_table(folder / name)
        if table:
            found[name] = table
        elif table is None and belongs:
            raise InputError(
                f"{folder / name} is no table of JSON, and may decide what the weights beside it compute; mend it, or "
                "take it away"
            )
    return found


def belongs(path: Path) -> bool:
    """Whether what lies beside a checkpoint was written with it: libraries save safetensors and `.bin`, and folders."""
    return path.suffix in (".safetensors", ".bin", ".json") or path.is_dir()


def read_table(path: Path) -> dict[str, Any] | None:
    """The table of a JSON file; {} where there is no file, None where what is there is no table, or too large a one."""
    try:
        # Not blocking: beside a stranger's file even a pipe may bear this name.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return {}
    except OSError:
        return None
    try:
        with os.fdopen(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size > LIMIT_BYTES:
                return None
            # NaN and its kin, which are no JSON, stay words.
            table = json.loads(stream.read(LIMIT_BYTES), parse_int=_whole, parse_constant=str)
    except (OSError, ValueError, RecursionError):
        return None
    return table if isinstance(table, dict) else None


def _whole(digits: str) -> int:
    if len(digits) > DIGITS:
        raise ValueError("a number beyond any measure")
    return int(digits)
