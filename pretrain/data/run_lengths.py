"""Masks of objects as COCO writes them, checked without its library: polygons, and run lengths in two spellings.

Run lengths count pixels down the columns, by turns outside and inside, and together are the whole image.
"""

from __future__ import annotations

import math
from typing import Any


def fault_of(segmentation: Any, height: int, width: int) -> str | None:
    """What is wrong with an object's mask in an image of this size, in words; None when it can be drawn."""
    if isinstance(segmentation, list):
        return _fault_of_polygons(segmentation)
    if not isinstance(segmentation, dict) or "counts" not in segmentation or "size" not in segmentation:
        return "segmentation is neither a list of polygons nor run lengths with 'counts' and 'size'"
    if list(segmentation["size"] or ()) != [height, width]:
        return f"run lengths are of size {segmentation['size']}, but the image is [{height}, {width}] (height, width)"
    counts = segmentation["counts"]
    if isinstance(counts, str):
        try:
            counts = decoded(counts)
        except ValueError as error:
            return f"run lengths are damaged: {error}"
    if not isinstance(counts, list) or not all(type(count) is int for count in counts):
        return "run lengths are damaged: counts are neither a text nor whole numbers"
    if any(count < 0 for count in counts):
        return "run lengths are damaged: a run has fewer than no pixels"
    if sum(counts) != height * width:
        return f"run lengths are damaged: they cover {sum(counts)} pixels of {height * width}"
    return None


def decoded(text: str) -> list[int]:
    """The runs of COCO's compressed spelling: six bits a character, each run from the third on as a difference.

    Raises:
        ValueError: a character that is none of the spelling's, or an end within a number.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"{character!r} is no character of them")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, shift = 0, 0
    if shift:
        raise ValueError("they end within a number")
    return runs


def _fault_of_polygons(polygons: list[Any]) -> str | None:
    for polygon in polygons:
        if not isinstance(polygon, list):
            return "a polygon is no list of numbers"
        for value in polygon:
            if type(value) not in (int, float) or not math.isfinite(value):
                return f"a polygon holds {value!r}, expected numbers x, y, x, y ..."
        if len(polygon) % 2:
            return f"a polygon has {len(polygon)} numbers, expected pairs of x and y"
    return None
