"""A sheet of predictions beside truth, for the run's directory and TensorBoard."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageDraw

from pretrain.data.readers.masks import IGNORE, MaskSet

_CELL_PX = 240
_GAP_PX = 6
_HEAD_PX = 18
_LEGEND_PX = 18
_COLUMNS = ("image", "truth", "prediction")
_IGNORED = (224, 224, 224)


def chosen(masks: MaskSet, count: int) -> list[int]:
    """Which images a sheet shows: `count` of them, spread evenly over the split."""
    return sorted({int(index) for index in np.linspace(0, len(masks) - 1, min(count, len(masks)))})


def coloured(labels: np.ndarray, palette: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """(H, W) labels -> (H, W, 3) uint8 in the palette's colours; what does not count is light grey."""
    table = np.full((IGNORE + 1, 3), _IGNORED, dtype=np.uint8)
    table[: len(palette)] = palette
    return table[labels]


def sheet(masks: MaskSet, predictions: dict[int, np.ndarray]) -> np.ndarray:
    """(H, W, 3) uint8: a row an image with image, truth and prediction, and the colours' names below.

    Args:
        masks: the split.
        predictions: image number -> (H, W) labels at the image's own size.
    """
    rows = [
        [masks.image(index), coloured(masks.mask(index), masks.palette), coloured(labels, masks.palette)]
        for index, labels in sorted(predictions.items())
    ]
    heights = [max(1, round(_CELL_PX * row[0].shape[0] / row[0].shape[1])) for row in rows]
    width = len(_COLUMNS) * (_CELL_PX + _GAP_PX) + _GAP_PX
    legend = _legend(masks, width)
    page = Image.new("RGB", (width, _HEAD_PX + sum(heights) + _GAP_PX * (len(rows) + 1) + legend.height), "white")
    draw = ImageDraw.Draw(page)
    for column, title in enumerate(_COLUMNS):
        draw.text((_GAP_PX + column * (_CELL_PX + _GAP_PX), 3), title, fill="black")
    top = _HEAD_PX
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            # Label colours must not mix: only the photograph is smoothed.
            filter_ = Image.Resampling.NEAREST if column else Image.Resampling.BILINEAR
            cell = Image.fromarray(picture).resize((_CELL_PX, height), filter_)
            page.paste(cell, (_GAP_PX + column * (_CELL_PX + _GAP_PX), top))
        top += height + _GAP_PX
    page.paste(legend, (0, page.height - legend.height))
    return np.asarray(page)


def as_png(picture: np.ndarray) -> bytes:
    """(H, W, 3) uint8 as the bytes of a PNG file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    return stream.getvalue()


def _legend(masks: MaskSet, width: int) -> Image.Image:
    names = [*masks.classes, "not counted"]
    colours = [*masks.palette, _IGNORED]
    columns = max(1, width // 150)
    lines = -(-len(names) // columns)
    page = Image.new("RGB", (width, lines * _LEGEND_PX + _GAP_PX), "white")
    draw = ImageDraw.Draw(page)
    for number, (name, colour) in enumerate(zip(names, colours, strict=True)):
        line, column = divmod(number, columns)
        left, top = _GAP_PX + column * 150, line * _LEGEND_PX
        draw.rectangle((left, top + 2, left + 12, top + 14), fill=colour, outline="black")
        draw.text((left + 18, top + 2), name[:20], fill="black")
    return page
