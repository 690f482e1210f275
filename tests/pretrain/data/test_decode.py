"""The one decoder: every kind of image comes to eight bits by the depth its file states, or is refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pretrain.data.decode import decode_image, read_image
from pretrain.runtime.errors import InputError

RAMP = np.arange(256, dtype=np.uint8).reshape(16, 16)  # every grey level once
DEEP = RAMP.astype(np.uint16) * 257  # the same picture with 16 bits: 255 is 65535


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(depth: int, colour_type: int, samples: bytes, width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    line = len(samples) // height
    lines = b"".join(b"\0" + samples[line * y : line * (y + 1)] for y in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def tiff(samples: bytes, width: int, height: int, *, bits: int, photometric: int = 1, kind: int = 1) -> bytes:
    """One strip, little-endian, one channel; `kind` is TIFF's SampleFormat (1 unsigned, 2 signed, 3 float)."""
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: height}
    tags |= {279: len(samples), 339: kind}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    after = 8 + len(samples)
    return b"II*\0" + struct.pack("<I", after) + samples + struct.pack("<H", len(tags)) + entries + b"\0" * 4


SAME_PICTURE = {
    "16-bit grey PNG": lambda: encoded(Image.fromarray(DEEP), "PNG"),
    "16-bit grey TIFF": lambda: encoded(Image.fromarray(DEEP), "TIFF"),
    "16-bit colour PNG": lambda: png(16, 2, np.repeat(DEEP.ravel(), 3).astype(">u2").tobytes(), 16, 16),
    "16-bit grey PNG with alpha": lambda: png(16, 4, np.repeat(DEEP.ravel(), 2).astype(">u2").tobytes(), 16, 16),
    "16-bit PGM": lambda: b"P5 16 16 65535\n" + DEEP.astype(">u2").tobytes(),
    "16-bit JPEG 2000": lambda: encoded(Image.fromarray(DEEP), "JPEG2000", num_resolutions=1),
    "16-bit TIFF, white is zero": lambda: tiff((65535 - DEEP).astype("<u2").tobytes(), 16, 16, bits=16, photometric=0),
    "8-bit TIFF, white is zero": lambda: tiff((255 - RAMP).tobytes(), 16, 16, bits=8, photometric=0),
    "float TIFF": lambda: encoded(Image.fromarray((RAMP / 255).astype(np.float32)), "TIFF"),
    "float TIFF, white is zero": lambda: tiff(
        (1 - RAMP / 255).astype("<f4").tobytes(), 16, 16, bits=32, photometric=0, kind=3
    ),
    "8-bit PNG": lambda: encoded(Image.fromarray(RAMP), "PNG"),
    "lossless WebP": lambda: encoded(Image.fromarray(RAMP).convert("RGB"), "WEBP", lossless=True),
    "GIF": lambda: encoded(Image.fromarray(RAMP), "GIF"),
    "animated GIF": lambda: encoded(
        Image.fromarray(RAMP), "GIF", save_all=True, append_images=[Image.fromarray(RAMP[::-1].copy())]
    ),
    "TIFF of two pages": lambda: encoded(
        Image.fromarray(DEEP), "TIFF", save_all=True, append_images=[Image.fromarray(DEEP[::-1].copy())]
    ),
    "palette with alpha": lambda: encoded(
        Image.fromarray(RAMP).convert("P"), "PNG", transparency=bytes(range(255, -1, -1))
    ),
    "grey with alpha": lambda: encoded(Image.merge("LA", [Image.fromarray(RAMP)] * 2), "PNG"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAME_PICTURE)
def test_the_same_picture_in_any_kind_of_file_is_the_same_pixels(kind: str) -> None:
    decoded = decode_image(SAME_PICTURE[kind](), kind)
    assert decoded.dtype == np.uint8
    assert (decoded == RAMP[:, :, None]).all()


def test_twelve_bits_count_to_4095() -> None:
    # Two samples of 12 bits in three bytes.
    values = (RAMP.astype(int) * 4095 // 255).reshape(-1, 2)
    packed = [[a >> 4, (a & 15) << 4 | b >> 8, b & 255] for a, b in values.tolist()]
    decoded = decode_image(tiff(np.array(packed, dtype=np.uint8).tobytes(), 16, 16, bits=12), "x-ray")
    assert (decoded == RAMP[:, :, None]).all()


def test_scaling_is_by_the_files_depth_not_by_its_values() -> None:
    """A dark 16-bit image stays dark: two images of a set must be treated alike."""
    dark = np.full((4, 4), 0x1234, dtype=np.uint16)
    assert (decode_image(encoded(Image.fromarray(dark), "PNG"), "dark") == 0x12).all()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (tiff(np.full(16, -3).astype("<i2").tobytes(), 4, 4, bits=16, kind=2), "samples of 16 bits, signed"),
        (tiff(np.full(16, 7).astype("<u4").tobytes(), 4, 4, bits=32), "samples of 32 bits, signed or of no"),
        (tiff(np.full(16, 7).astype("<f4").tobytes(), 4, 4, bits=32, kind=3), "samples from 7 to 7, expected 0 to 1"),
        (tiff(np.full(16, np.nan).astype("<f4").tobytes(), 4, 4, bits=32, kind=3), "from nan to nan"),
        (tiff(np.full(16, 0.5).astype("<f8").tobytes(), 4, 4, bits=64, kind=3), "of no kind that Pillow reads"),
        (b"", "0 bytes.: it is empty"),
        (b"<html>404</html>", "of no kind that Pillow reads"),
    ],
)  # fmt: skip
def test_what_cannot_be_brought_to_eight_bits_is_refused_by_name(data: bytes, says: str) -> None:
    with pytest.raises(InputError, match=rf"^image scan\.tif [^\n]*{says}[^\n]*$"):
        decode_image(data, "scan.tif")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "GIF", "WEBP", "BMP", "PPM"])
def test_a_file_cut_anywhere_is_refused_in_a_sentence(kind: str) -> None:
    rng = np.random.default_rng(0)
    whole = encoded(Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)), kind)
    # Behind the last pixel most formats have an end mark that no decoder misses.
    for cut in [*range(0, len(whole) - 40, 37)]:
        with pytest.raises(InputError, match=r"^image cut does not decode[^\n]*$"):
            decode_image(whole[:cut], "cut")


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "GIF"), ("1", "PNG")]
)
def test_modes_decode_as_pillow_converts_them(mode: str, kind: str) -> None:
    data = encoded(Image.new("RGB", (7, 9), (200, 100, 50)).convert(mode), kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    decoded = decode_image(data, "x")
    assert decoded.shape == (9, 7, 3)
    assert np.abs(decoded - expected).max() <= 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_orientation_is_obeyed_only_when_asked(kind: str) -> None:
    picture = Image.fromarray(np.kron(np.array([[0, 50, 100], [150, 200, 250]], dtype=np.uint8), np.ones((8, 8), "u1")))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(picture, kind, exif=exif)
        turned = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))
        assert (decode_image(data, "x", upright=True) == turned).all(), orientation
        assert decode_image(data, "x").shape == (16, 24, 3)


def test_links_and_folders_are_told_apart_from_images(tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "folder.png").mkdir()
    for name, says in (
        ("none.png", "no image at .*none.png"),
        ("link.png", "link.png .a link that leads nowhere"),
        ("loop.png", "loop.png cannot be read: Too many levels of symbolic links"),
        ("folder.png", "folder.png cannot be read: Is a directory"),
    ):
        with pytest.raises(InputError, match=says):
            read_image(tmp_path / name)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_the_limit_of_pixels_is_the_same_for_every_format(kind: str) -> None:
    """A PNG of over 179 megapixels was refused as a bomb, a JPEG of that size read."""
    stream = io.BytesIO()
    Image.new("1", (20_000, 9_000)).save(stream, kind)
    with pytest.raises(InputError, match=r"x has 20000 x 9000 = 180000000 pixels, more than `max_pixels` allows"):
        decode_image(stream.getvalue(), "x")
    stream = io.BytesIO()
    Image.new("L", (64, 32)).save(stream, "JPEG")
    # The frame's header says how large it is: SOF0, its length and depth, then height and width.
    data = stream.getvalue()
    at = data.index(b"\xff\xc0") + 5
    large = data[:at] + (9_000).to_bytes(2, "big") + (20_000).to_bytes(2, "big") + data[at + 4 :]
    with pytest.raises(InputError, match=r"x has 20000 x 9000 = 180000000 pixels"):
        decode_image(large, "x")
    assert decode_image(data, "x", max_pixels=2048).shape == (32, 64, 3)
