"""The one decoder: an image file's bytes as uint8 RGB, for pretraining, every task and every check alike.

What a file holds is brought to 8 bits by the depth that the file states, never by the values it happens to hold, so
that two images of a set are treated alike: 16-bit samples give their high byte (as Pillow and libpng do for colour),
12-bit ones their upper eight bits, floating-point ones count from 0 to 1. Where the file does not say what its white
is (32-bit integers, signed integers, floats outside 0..1) the image is refused by name. Alpha is dropped, a
palette looked up, CMYK converted, and of an animation or a file of several pages the first picture is taken, all as
Pillow's `convert("RGB")`. An image of more than `max_pixels` is refused before it is decoded, whatever its format. EXIF
orientation is left alone unless asked for: torchvision's loaders ignore it, detectron2 obeys it.

Shapes: H W size.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, UnidentifiedImageError

import pretrain.data.headers  # noqa: F401 - takes Pillow's own limit away
from pretrain.data.names import MAX_PIXELS
from pretrain.runtime.errors import InputError

_ORIENTATION = 0x0112  # of EXIF
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # of TIFF


def decode_image(data: bytes, where: str, *, upright: bool = False, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image file's bytes as uint8 (H, W, 3) RGB.

    Args:
        data: the whole file.
        where: names the file in messages.
        upright: turn the image as its EXIF orientation says.
        max_pixels: width times height of the largest image that is decoded.

    Raises:
        InputError: the bytes are no whole image, one that is larger, or one whose samples have no known white;
            `where` is named.
    """
    if simplejpeg.is_jpeg(data):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
            _refuse_huge(width, height, max_pixels, where)
            pixels = simplejpeg.decode_jpeg(data, "RGB")
        except InputError:
            raise
        except ValueError:
            pass  # CMYK and other rare kinds, which Pillow reads; a damaged file fails there too, with Pillow's reason
        else:
            return _turned(pixels, _orientation_of(data)) if upright else pixels
    try:
        with Image.open(BytesIO(data)) as image:
            _refuse_huge(image.width, image.height, max_pixels, where)
            pixels = _eight_bits(image, where)
            return _turned(pixels, image.getexif().get(_ORIENTATION, 1)) if upright else pixels
    except (InputError, MemoryError):
        raise
    except UnidentifiedImageError:
        reason = "it is empty" if not data else "it is of no kind that Pillow reads"
    except Exception as error:  # what Pillow's readers raise on damaged bytes has no common type
        reason = str(error) or type(error).__name__
    raise InputError(f"image {where} does not decode ({len(data)} bytes): {reason}")


def read_image(path: Path, *, upright: bool = False) -> np.ndarray:
    """`decode_image` of a file. Raises InputError as `file_bytes` and `decode_image` do."""
    return decode_image(file_bytes(path), str(path), upright=upright)


def file_bytes(path: Path) -> bytes:
    """An image file's bytes. Raises InputError: it is not there (or a link that leads nowhere), or cannot be read."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no image at {path}{' (a link that leads nowhere)' if path.is_symlink() else ''}") from None
    except OSError as error:
        raise InputError(f"image {path} cannot be read: {error.strerror}") from None


def _refuse_huge(width: int, height: int, max_pixels: int, where: str) -> None:
    if width * height > max_pixels:
        raise InputError(
            f"image {where} has {width} x {height} = {width * height} pixels, more than `max_pixels` "
            f"allows ({max_pixels}), which the set's entry in the catalog can raise"
        )


def _eight_bits(image: Image.Image, where: str) -> np.ndarray:
    """uint8 (H, W, 3); see the top of the file."""
    image.load()  # some formats know their mode only then
    tags = getattr(image, "tag_v2", {})
    white_is_zero = tags.get(_PHOTOMETRIC) == 0  # Pillow inverts such TIFFs of 8 bits and less, deeper ones it does not
    if image.mode == "F":
        return _from_float(np.asarray(image), white_is_zero, where)
    # Pillow's mode I is 16 bits deep in PNG (before Pillow 11) and in PGM, which it brings to the range of 0..65535.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        depth = int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
        grey = (np.asarray(image).astype(np.int64) >> (depth - 8)).clip(0, 255).astype(np.uint8)
        return _grey(255 - grey if white_is_zero else grey)
    if image.mode == "I":
        raise InputError(
            f"image {where} has samples of {tags.get(_BITS_PER_SAMPLE, (32,))[0]} bits, signed or of no stated range, "
            "so that its white is not known; save it with 8 or 16 unsigned bits"
        )
    if image.mode in ("P", "PA", "La", "RGBa"):  # transparency first: Pillow warns of, or has no way, straight to RGB
        image = image.convert("LA" if image.mode == "La" else "RGBA")
    return np.array(image.convert("RGB"))


def _from_float(values: np.ndarray, white_is_zero: bool, where: str) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # so that NaN is refused as well
        raise InputError(
            f"image {where} has floating-point samples from {low:.6g} to {high:.6g}, expected 0 to 1; scale it, or "
            "save it with 8 or 16 unsigned bits"
        )
    grey = np.rint(255 * values.astype(np.float64)).astype(np.uint8)
    return _grey(255 - grey if white_is_zero else grey)


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, axis=2)


def _orientation_of(data: bytes) -> int:
    with Image.open(BytesIO(data)) as image:
        return image.getexif().get(_ORIENTATION, 1)


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The image as it is meant to be looked at; EXIF 2.32, table 6 ("Orientation")."""
    turns: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        2: lambda stored: stored[:, ::-1],
        3: lambda stored: stored[::-1, ::-1],
        4: lambda stored: stored[::-1],
        5: lambda stored: stored.swapaxes(0, 1),
        6: lambda stored: np.rot90(stored, 3),
        7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90,
    }
    turn = turns.get(orientation)
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))
