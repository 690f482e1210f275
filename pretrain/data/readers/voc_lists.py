"""VOC's lists of images, and the image files that they name."""

from __future__ import annotations

from pathlib import Path

from pretrain.data.names import SUFFIXES
from pretrain.runtime.errors import InputError

_ENDINGS = (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES))
# A class's own list says behind each name whether the class is there (VOC development kit, section 4.1).
_FLAGS = ("1", "-1", "0")


def stems(listing: Path, images: Path) -> list[str]:
    """The names of a list, each once; a name may hold spaces, where `images` has such a file.

    Raises:
        InputError: no such list, one that names nothing or that names an image twice, with its line.
    """
    if not listing.is_file():
        raise InputError(f"no list of images at {listing}")
    lines: dict[str, int] = {}
    try:
        text = listing.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{listing} is not UTF-8: {error}") from None
    for number, line in enumerate(text.splitlines(), start=1):
        stem = _stem(line.strip(), images)
        if stem in lines:
            raise InputError(f"{listing}:{number}: '{stem}' stands in line {lines[stem]} already and would count twice")
        if stem:
            lines[stem] = number
    if not lines:
        raise InputError(f"{listing}:1: the list names no image")
    return list(lines)


def image_file(folder: Path, stem: str) -> Path:
    """The image of this name. Raises InputError: none, or two of which neither is meant more than the other."""
    found: list[Path] = []
    for ending in _ENDINGS:
        path = folder / f"{stem}{ending}"
        # On a file system that knows no case `a.JPG` is `a.jpg`.
        if path.is_file() and not any(path.samefile(other) for other in found):
            found.append(path)
    if not found:
        raise InputError(f"no image at {folder / stem}.jpg (nor with {', '.join(SUFFIXES[1:5])} ...)")
    if len(found) > 1:
        raise InputError(f"two images of one name: {found[0]} and {found[1]}; only one of them can be meant")
    return found[0]


def _stem(line: str, images: Path) -> str:
    words = line.split()
    if len(words) < 2 or any((images / f"{line}{ending}").is_file() for ending in _ENDINGS):
        return line
    if words[-1] in _FLAGS:
        return line[: -len(words[-1])].rstrip()
    return line
