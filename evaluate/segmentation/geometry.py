"""The lengths of a run: the protocol's, or shrunk by one rule for small images. Imports no torch."""

from __future__ import annotations

from evaluate.protocols.segmentor import SegmentationProtocol
from pretrain.runtime.settings import Settings


class Geometry(Settings):
    """The lengths a run works with, in pixels: the protocol's, or the protocol's shrunk for small images.

    A set is small when the median of its training images' short sides is at most half the short side the protocol
    scales to (its crop, where it does not scale). Then every length is multiplied by median / that side, so that
    images are used near their own size; crops and strides become the nearest lengths below that leave the same
    remainder by 8 as the protocol's (512 -> 8n, 769 -> 8n + 1), and at least 32.

    Attributes:
        factor: 1 when nothing was shrunk.
    """

    scale: tuple[int, int] | None
    crop: int
    slide_stride: int
    test_scale: tuple[int, int] | None
    factor: float

    @classmethod
    def of(cls, protocol: SegmentationProtocol, median_short_side: float) -> Geometry:
        """The lengths of `protocol` for images of this median short side."""
        written_for = protocol.scale[1] if protocol.scale else protocol.crop
        small = protocol.shrink and median_short_side <= written_for / 2
        factor = median_short_side / written_for if small else 1.0

        def sides(pair: tuple[int, int] | None) -> tuple[int, int] | None:
            return None if pair is None else (round(pair[0] * factor), round(pair[1] * factor))

        def window(length: int) -> int:
            if not small:
                return length
            remainder = length % 8
            return max((int(length * factor) - remainder) // 8 * 8, 32) + remainder

        return cls(
            scale=sides(protocol.scale),
            crop=window(protocol.crop),
            slide_stride=window(protocol.slide_stride),
            test_scale=sides(protocol.test_scale),
            factor=factor,
        )
