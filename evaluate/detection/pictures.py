"""A sheet of test images, truth on the left and what was found on the right, for the run's directory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as run_lengths

from evaluate.detection.measuring import Detections
from evaluate.detection.samples import read_pixels
from pretrain.data.objects import Box, ObjectSet
from pretrain.data.readers.masks import voc_palette

SHOWN_FROM = 0.5  # score
_CELL_PX = 280
_GAP_PX = 6
_HEAD_PX = 18
_COLUMNS = ("truth", f"found, score {SHOWN_FROM} or more")
_TRUTH = (255, 255, 255)


def chosen(count: int, of: int) -> list[int]:
    """`count` image numbers spread evenly over `of` images."""
    return sorted({int(index) for index in np.linspace(0, of - 1, min(count, of))})


def sheet(objects: ObjectSet, found: list[Detections], numbers: Iterable[int]) -> np.ndarray:
    """uint8 (H, W, 3): a row an image; boxes are named, found ones with their scores, masks are laid over.

    Where no score is high enough, the best one is told, so that an empty picture can be told from a blind detector.
    """
    palette = voc_palette(len(objects.classes) + 1)
    rows = []
    for number in numbers:
        image, detections = objects.images[number], found[number]
        pixels = read_pixels(image, "RGB")
        truth = [(thing.box, objects.classes[thing.category], _TRUTH) for thing in image.objects]
        drawn, blended = [], pixels.astype(float)
        for place in np.flatnonzero(detections.scores >= SHOWN_FROM):
            category = int(detections.categories[place])
            name = f"{objects.classes[category]} {detections.scores[place]:.2f}"
            drawn.append((tuple(detections.boxes[place]), name, palette[category + 1]))
            if detections.masks is not None:
                inside = run_lengths.decode(detections.masks[place]).astype(bool)
                blended[inside] = 0.5 * blended[inside] + 0.5 * np.array(palette[category + 1])
        note = "" if drawn else f"best score {detections.scores.max(initial=0.0):.2f}"
        rows.append((_cell(pixels, truth), _cell(blended.astype(np.uint8), drawn, note)))
    heights = [left.height for left, _ in rows]
    page = Image.new("RGB", (2 * _CELL_PX + 3 * _GAP_PX, _HEAD_PX + sum(heights) + _GAP_PX * len(rows)), "white")
    for column, title in enumerate(_COLUMNS):
        ImageDraw.Draw(page).text((_GAP_PX + column * (_CELL_PX + _GAP_PX), 3), title, fill="black")
    top = _HEAD_PX
    for left, right in rows:
        page.paste(left, (_GAP_PX, top))
        page.paste(right, (2 * _GAP_PX + _CELL_PX, top))
        top += left.height + _GAP_PX
    return np.asarray(page)


def _cell(pixels: np.ndarray, boxes: list[tuple[Box, str, tuple[int, int, int]]], note: str = "") -> Image.Image:
    scale = _CELL_PX / pixels.shape[1]
    cell = Image.fromarray(pixels).resize((_CELL_PX, max(1, round(scale * pixels.shape[0]))))
    draw = ImageDraw.Draw(cell)
    for box, name, colour in boxes:
        x0, y0, x1, y1 = (value * scale for value in box)
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=2)
        _label(draw, (x0 + 2, y0 + 1), name, colour)
    if note:
        _label(draw, (4, 3), note, _TRUTH)
    return cell


def _label(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, colour: tuple[int, int, int]) -> None:
    """Text on a plate of `colour`, black or white, whichever can be read on it (luma of BT.601)."""
    luma = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]
    draw.rectangle(draw.textbbox(at, text), fill=colour)
    draw.text(at, text, fill="black" if luma > 128 else "white")
