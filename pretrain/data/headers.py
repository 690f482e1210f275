"""What an image file's first bytes say of it, without decoding it: its size and what kind of image it is."""

from __future__ import annotations

from io import BytesIO
from typing import NamedTuple

import simplejpeg
from PIL import Image

# Pillow's guard against decompression bombs warns of some formats, refuses others, and knows nothing of JPEGs that are
# decoded elsewhere. `pretrain.data.decode` holds all formats to one limit instead, before it decodes.
Image.MAX_IMAGE_PIXELS = None
# Bits of `Header.kinds`, in the order in which they are told.
KINDS = ("grey", "palette", "alpha", "CMYK", "16-bit", "floating point", "animated", "EXIF-turned")
_GREY, _PALETTE, _ALPHA, _CMYK, _DEEP, _FLOAT, _ANIMATED, _TURNED = (1 << bit for bit in range(len(KINDS)))
_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258


class Header(NamedTuple):
    """`width` and `height` in pixels as stored, 0 where the bytes are no image; `kinds` is a sum of bits of `KINDS`."""

    width: int
    height: int
    kinds: int


NO_IMAGE = Header(0, 0, 0)


def header(data: bytes) -> Header:
    """What the file says of itself; bytes that are no image give `NO_IMAGE`. Only decoding tells if it is whole."""
    try:
        # Sets of a million files are JPEG: the fast way for those that carry nothing unusual.
        if simplejpeg.is_jpeg(data) and b"Exif\0\0" not in data[:4096]:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
            kinds = {"Gray": _GREY, "CMYK": _CMYK, "YCCK": _CMYK}.get(colours, 0)
            return Header(width, height, kinds)
        with Image.open(BytesIO(data)) as image:
            return Header(image.width, image.height, _kinds(image, data))
    except MemoryError:
        raise
    except Exception:  # what Pillow's readers raise on damaged bytes has no common type
        return NO_IMAGE


def _kinds(image: Image.Image, data: bytes) -> int:
    mode, bits = image.mode, getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))
    deep_png = image.format == "PNG" and data[24:25] == b"\x10"  # IHDR's depth; the mode tells it for grey only
    kinds = 0
    for bit, applies in (
        (_GREY, mode in ("1", "L", "LA", "La", "I", "F") or mode.startswith("I;")),
        (_PALETTE, mode in ("P", "PA")),
        (_ALPHA, mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info),
        (_CMYK, mode == "CMYK"),
        (_DEEP, mode == "I" or mode.startswith("I;") or deep_png or (mode != "F" and max(bits) > 8)),
        (_FLOAT, mode == "F"),
        (_ANIMATED, _several_frames(image)),
        # Not the PNG reader's own getexif, which decodes the image to look behind it.
        (_TURNED, Image.Image.getexif(image).get(_ORIENTATION, 1) not in (0, 1)),
    ):
        kinds |= bit * applies
    return kinds


def _several_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except (OSError, EOFError, ValueError):
        return False  # damaged further back
