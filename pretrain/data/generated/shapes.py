"""Drawing shapes: ten classes, each an outline with a texture of its own, on backgrounds of clutter.

Where a shape lies, how large and how it is turned, and all its colours are drawn without regard to its class, and all
outlines have the same area: the class can be told from form and texture alone. Both turn with the shape.

Only `Generator.random` is called for random numbers, whose stream NumPy keeps, so that a set is the same set for ever.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

VERSION = 1  # of the drawing: part of every identity, to be raised with any change of a pixel

CLASSES = ("disc", "square", "triangle", "star", "cross", "ring", "heart", "crescent", "hexagon", "arrow")
_SUBPIXEL = 4  # fractional bits of OpenCV's coordinates


@dataclass(frozen=True)
class Pose:
    """Where a shape lies: centre (x, y) and radius in pixels, angle in radians. Its area is about 2 * radius**2."""

    x: float
    y: float
    radius: float
    angle: float

    def outside(self) -> float:
        """The radius in pixels of a circle around (x, y) that holds any outline whole."""
        return self.radius * _REACH


def draw_image(class_index: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (size, size, 3) RGB: one shape of the class on a cluttered background."""
    canvas = draw_background(size, size, rng)
    x, y, radius, angle = rng.random(4)
    pose = Pose(
        x=size * (0.3 + 0.4 * x),
        y=size * (0.3 + 0.4 * y),
        radius=size * (0.20 + 0.14 * radius),
        angle=2 * math.pi * angle,
    )
    draw_shape(canvas, class_index, pose, rng)
    return add_noise(canvas, rng)


def draw_background(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 (height, width, 3) RGB: a smooth field of colour with untextured lines, ellipses and triangles."""
    field = (255 * (0.15 + 0.7 * rng.random((3, 3, 3)))).astype(np.uint8)
    canvas = cv2.resize(field, (width, height), interpolation=cv2.INTER_CUBIC)
    scale = min(height, width) * (1 << _SUBPIXEL)
    for kind, tint, x, y, a, b, turn, thick in rng.random((10, 8)).tolist():
        colour = _colour(tint, a, 0.25 + 0.7 * b)
        at = (int(x * width * 16), int(y * height * 16))
        if kind < 0.4:
            end = (int(at[0] + scale * 0.6 * math.cos(6.3 * turn)), int(at[1] + scale * 0.6 * math.sin(6.3 * turn)))
            cv2.line(canvas, at, end, colour, 1 + int(thick * min(height, width) / 20), cv2.LINE_AA, _SUBPIXEL)
        elif kind < 0.7:
            axes = (int(scale * (0.03 + 0.12 * a)), int(scale * (0.03 + 0.12 * b)))
            cv2.ellipse(canvas, at, axes, 360 * turn, 0, 360, colour, -1, cv2.LINE_AA, _SUBPIXEL)
        else:
            angles = 6.3 * (turn + np.array([0, 0.2 + 0.2 * a, 0.6 + 0.2 * b]))
            corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * scale * (0.06 + 0.14 * thick) + at
            cv2.fillPoly(canvas, [corners.astype(np.int32)], colour, cv2.LINE_AA, _SUBPIXEL)
    return canvas


def draw_shape(canvas: np.ndarray, class_index: int, pose: Pose, rng: np.random.Generator) -> np.ndarray:
    """Draw a shape into `canvas`, uint8 (H, W, 3), in place; colours and the texture's phase come from `rng`.

    Returns:
        bool (H, W): the pixels that the shape covers at least half. What lies outside the canvas is cut off.
    """
    height, width = canvas.shape[:2]
    numbers = rng.random(12)
    mask = np.zeros((height, width), dtype=bool)
    reach = pose.outside() + 1
    left, right = max(0, math.floor(pose.x - reach)), min(width, math.ceil(pose.x + reach) + 1)
    top, bottom = max(0, math.floor(pose.y - reach)), min(height, math.ceil(pose.y + reach) + 1)
    if left >= right or top >= bottom:
        return mask
    cosine, sine = math.cos(pose.angle), math.sin(pose.angle)
    turn = np.array([[cosine, sine], [-sine, cosine]]) * pose.radius  # rows: where the outline's axes point
    origin = np.array([pose.x - left, pose.y - top])
    contours = [
        np.round((contour @ turn + origin) * (1 << _SUBPIXEL)).astype(np.int32) for contour in _OUTLINES[class_index]
    ]
    cover = np.zeros((bottom - top, right - left), dtype=np.uint8)
    cv2.fillPoly(cover, contours, 255, cv2.LINE_AA, _SUBPIXEL)
    mask[top:bottom, left:right] = cover >= 128

    # Pixel centres in the outline's own coordinates, where its area is 2.
    dx = (np.arange(left, right, dtype=np.float32) - np.float32(pose.x)) / np.float32(pose.radius)
    dy = (np.arange(top, bottom, dtype=np.float32) - np.float32(pose.y))[:, None] / np.float32(pose.radius)
    u = np.float32(cosine) * dx + np.float32(sine) * dy
    v = np.float32(cosine) * dy - np.float32(sine) * dx
    wave = _TEXTURES[class_index](u, v, float(0.85 + 0.3 * numbers[0]), 2 * math.pi * numbers[1:5])
    # Steep, so that textures have edges, but not steeper than a pixel can show.
    blend = np.clip(0.5 + 2.0 * wave, 0, 1, dtype=np.float32)[..., None]
    dark, light = _two_colours(numbers[5:11].tolist())
    fill = dark + blend * (light - dark)
    alpha = (cover * np.float32(1 / 255))[..., None]
    place = canvas[top:bottom, left:right]
    place[...] = place + alpha * (fill - place)
    return mask


def add_noise(canvas: np.ndarray, rng: np.random.Generator, level: int = 6) -> np.ndarray:
    """The canvas with noise of up to `level` levels up or down."""
    noise = (rng.random(canvas.shape, dtype=np.float32) * (2 * level + 1)).astype(np.uint8)
    return cv2.subtract(cv2.add(canvas, noise), np.full_like(canvas, level))


def _colour(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """RGB from 0 to 255; hue, saturation and value from 0 to 1."""
    sector, part = divmod(6 * hue, 1.0)
    value *= 255
    low, falling, rising = (value * (1 - saturation * x) for x in (1.0, part, 1 - part))
    return (
        (value, rising, low),
        (falling, value, low),
        (low, value, rising),
        (low, falling, value),
        (rising, low, value),
        (value, low, falling),
    )[int(sector) % 6]


def _two_colours(u: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Two RGB colours of any hue, one clearly darker than the other; which is which is for the texture to say."""
    dark = np.array(_colour(u[0], 0.3 + 0.7 * u[1], 0.1 + 0.3 * u[2]), dtype=np.float32)
    light = np.array(_colour(u[3], 0.6 * u[4], 0.75 + 0.25 * u[2]), dtype=np.float32)
    return (dark, light) if u[5] < 0.5 else (light, dark)


def _outline(*contours: np.ndarray) -> tuple[np.ndarray, ...]:
    """Contours (a second one is a hole), moved to their centre and scaled to area 2."""
    areas = [abs(cv2.contourArea(contour.astype(np.float32))) for contour in contours]
    first = contours[0]
    moments = cv2.moments(first.astype(np.float32))
    centre = np.array([moments["m10"], moments["m01"]]) / moments["m00"]
    scale = math.sqrt(2 / (areas[0] - sum(areas[1:])))
    return tuple((contour - centre) * scale for contour in contours)


def _regular(corners: int, inner: float = 1.0) -> np.ndarray:
    """A regular polygon; with `inner` below 1 a star whose notches lie that far out."""
    count = corners if inner == 1.0 else 2 * corners
    angles = np.arange(count) * (2 * np.pi / count)
    radii = np.where(np.arange(count) % 2 == 0, 1.0, inner)
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y], axis=1)


def _crescent() -> np.ndarray:
    outer = np.linspace(0.62, 2 * np.pi - 0.62, 36)
    tip = np.array([math.cos(0.62), math.sin(0.62)])
    centre = np.array([0.55, 0.0])
    inner_radius = float(np.linalg.norm(tip - centre))
    start = math.atan2(tip[1], tip[0] - centre[0])
    inner = np.linspace(2 * np.pi - start, start, 30)[1:-1]
    return np.concatenate(
        [
            np.stack([np.cos(outer), np.sin(outer)], axis=1),
            centre + inner_radius * np.stack([np.cos(inner), np.sin(inner)], axis=1),
        ]
    )


def _cross(arm: float = 0.36) -> np.ndarray:
    a = arm
    return np.array(
        [[a, 1], [a, a], [1, a], [1, -a], [a, -a], [a, -1], [-a, -1], [-a, -a], [-1, -a], [-1, a], [-a, a], [-a, 1]],
        dtype=float,
    )


def _arrow() -> np.ndarray:
    return np.array([[1, 0], [0, 0.85], [0, 0.35], [-1, 0.35], [-1, -0.35], [0, -0.35], [0, -0.85]], dtype=float)


_OUTLINES: tuple[tuple[np.ndarray, ...], ...] = (
    _outline(_regular(40)),
    _outline(_regular(4)),
    _outline(_regular(3)),
    _outline(_regular(5, inner=0.45)),
    _outline(_cross()),
    _outline(_regular(40), 0.55 * _regular(40)[::-1]),
    _outline(_heart()),
    _outline(_crescent()),
    _outline(_regular(6)),
    _outline(_arrow()),
)
_REACH = max(float(np.linalg.norm(contour, axis=1).max()) for outline in _OUTLINES for contour in outline)

# A texture: u, v in the outline's coordinates, a factor of its frequency, four phases -> a wave around 0.
Texture = Callable[[np.ndarray, np.ndarray, float, np.ndarray], np.ndarray]
_TURN = np.float32(2 * math.pi)


def _stripes(u: np.ndarray, v: np.ndarray, f: float, p: np.ndarray) -> np.ndarray:
    return np.sin(_TURN * np.float32(2.0 * f) * u + np.float32(p[0]))


def _checks(u: np.ndarray, v: np.ndarray, f: float, p: np.ndarray) -> np.ndarray:
    k = _TURN * np.float32(1.1 * f)
    return 2 * np.sin(k * u + np.float32(p[0])) * np.sin(k * v + np.float32(p[1]))


def _dots(u: np.ndarray, v: np.ndarray, f: float, p: np.ndarray) -> np.ndarray:
    k = _TURN * np.float32(1.7 * f)
    return np.cos(k * u + np.float32(p[0])) + np.cos(k * v + np.float32(p[1])) - np.float32(0.8)


def _circles(u: np.ndarray, v: np.ndarray, f: float, p: np.ndarray) -> np.ndarray:
    return np.sin(_TURN * np.float32(1.9 * f) * np.hypot(u, v) + np.float32(p[0]))


def _zigzag(u: np.ndarray, v: np.ndarray, f: float, p: np.ndarray) -> np.ndarray:
    teeth = np.abs((v * np.float32(1.3 * f) + np.float32(p[1])) % 1 - np.float32(0.5))
    return np.sin(_TURN * (np.float32(1.9 * f) * u + np.float32(1.6) * teeth) + np.float32(p[0]))


def _spokes(u: np.ndarray, v: np.ndarray, f: float, p: np.ndarray) -> np.ndarray:
    return np.sin(np.float32(9) * np.arctan2(v, u) + np.float32(p[0]))


def _shade(u: np.ndarray, v: np.ndarray, f: float, p: np.ndarray) -> np.ndarray:
    return np.float32(0.2 * f) * (u * np.float32(math.cos(p[0])) + v * np.float32(math.sin(p[0])))


def _spiral(u: np.ndarray, v: np.ndarray, f: float, p: np.ndarray) -> np.ndarray:
    return np.sin(_TURN * np.float32(1.2 * f) * np.hypot(u, v) + np.float32(3) * np.arctan2(v, u) + np.float32(p[0]))


def _bricks(u: np.ndarray, v: np.ndarray, f: float, p: np.ndarray) -> np.ndarray:
    row = v * np.float32(2.0 * f) + np.float32(p[0])
    along = u * np.float32(1.1 * f) + np.float32(0.5) * np.floor(row) + np.float32(p[1])
    joint = np.minimum(np.float32(0.5) - np.abs(row % 1 - np.float32(0.5)), np.float32(1.8) * (
        np.float32(0.5) - np.abs(along % 1 - np.float32(0.5))
    ))  # fmt: skip
    return np.float32(6) * (joint - np.float32(0.14))


def _spots(u: np.ndarray, v: np.ndarray, f: float, p: np.ndarray) -> np.ndarray:
    k = _TURN * np.float32(1.3 * f)
    wave = np.zeros_like(u)
    for number, phase in enumerate(p.tolist()):
        angle = number * math.pi / 4 + 0.3 * phase
        wave += np.cos(k * (u * np.float32(math.cos(angle)) + v * np.float32(math.sin(angle))) + np.float32(phase * 3))
    return np.float32(0.7) * wave


_TEXTURES: tuple[Texture, ...] = (
    _stripes,
    _checks,
    _dots,
    _circles,
    _zigzag,
    _spokes,
    _shade,
    _spiral,
    _bricks,
    _spots,
)
assert len(_TEXTURES) == len(_OUTLINES) == len(CLASSES)
