"""Which names in a folder are images, which are none, and which are an operating system's own.

Every reader that walks a folder, and the check that tells what was left out, decide by these.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

# What `pretrain.data.decode` reads, by the endings files of the kinds have (lower case; upper case counts too).
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".bmp", ".dib"),
    *(".tif", ".tiff", ".webp", ".gif", ".avif", ".jp2", ".j2k", ".jpx", ".tga"),
)
# The largest image, width times height, that is decoded unless a catalog says otherwise: what Pillow refuses as a bomb.
MAX_PIXELS = 178_956_970
# Hidden by a leading dot (.DS_Store, .ipynb_checkpoints, ._name of a Mac's copy), or known by name: what zip programs,
# network storages and desktops leave behind.
_SYSTEM = {
    *("__macosx", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found", "__pycache__"),
    *("system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
}


def is_system(name: str | bytes) -> bool:
    """Whether a file or folder of this name (its last part) is hidden or an operating system's: never data."""
    text = os.fsdecode(name)
    return text.startswith(".") or text.lower() in _SYSTEM


def is_image(name: str | bytes, suffixes: Iterable[str] = SUFFIXES) -> bool:
    """Whether a file of this name is read as an image."""
    text = os.fsdecode(name).lower()
    return text.endswith(tuple(suffixes)) and not is_system(text.rpartition("/")[2])


def kind_of(name: str | bytes) -> str:
    """What a file that is no image is counted under: its suffix, lower case."""
    ending = re.search(r"(?<=.)\.[^.]{1,12}$", os.fsdecode(name))
    return ending[0].lower() if ending else "no suffix"
