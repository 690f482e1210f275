"""What headers say: size and kind, without decoding, and nothing of damaged bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pretrain.data.headers import KINDS, NO_IMAGE, header

GREY16 = Image.fromarray(np.zeros((4, 6), dtype=np.uint16))
CASES = {
    "colour JPEG": ("RGB", "JPEG", {}, []),
    "grey JPEG": ("L", "JPEG", {}, ["grey"]),
    "CMYK JPEG": ("CMYK", "JPEG", {}, ["CMYK"]),
    "palette": ("P", "PNG", {}, ["palette"]),
    "palette with a see-through colour": ("P", "PNG", {"transparency": 0}, ["palette", "alpha"]),
    "alpha": ("RGBA", "PNG", {}, ["alpha"]),
    "grey with alpha": ("LA", "PNG", {}, ["grey", "alpha"]),
    "bits": ("1", "PNG", {}, ["grey"]),
    "16-bit PNG": ("I;16", "PNG", {}, ["grey", "16-bit"]),
    "16-bit TIFF": ("I;16", "TIFF", {}, ["grey", "16-bit"]),
    "float TIFF": ("F", "TIFF", {}, ["grey", "floating point"]),
    "8-bit TIFF": ("RGB", "TIFF", {}, []),
    "turned JPEG": ("RGB", "JPEG", {"exif": 6}, ["EXIF-turned"]),
    "turned PNG": ("RGB", "PNG", {"exif": 3}, ["EXIF-turned"]),
    "upright JPEG with EXIF": ("RGB", "JPEG", {"exif": 1}, []),
    "animated WebP": ("RGB", "WEBP", {"save_all": True}, ["animated"]),
}


@pytest.mark.parametrize("case", CASES)
def test_size_and_kind(case: str) -> None:
    mode, kind, options, expected = CASES[case]
    image = GREY16 if mode == "I;16" else Image.new(mode, (6, 4))
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options["exif"]
        options = {"exif": exif}
    if options.get("save_all"):
        options = options | {"append_images": [Image.new("RGB", (6, 4), "red")]}
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    found = header(stream.getvalue())
    assert (found.width, found.height) == (6, 4)
    assert [name for bit, name in enumerate(KINDS) if found.kinds >> bit & 1] == expected


def test_what_is_no_image_has_no_header() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (6, 4)).save(stream, "PNG")
    assert header(stream.getvalue()[:20]) == header(b"") == header(b"<html>") == NO_IMAGE
    assert header(stream.getvalue()[:-20])[:2] == (6, 4)  # cut in its pixels: only decoding tells
