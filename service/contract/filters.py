"""A picture resized by Pillow's antialiasing filters: only the part that the row keeps.

In: a picture, the size that it is resized to, and the part of that which the row holds.
Out: that part's levels.

Where _resample.c is compiled, the levels are Pillow's to the last bit, for a tenth of the time. Elsewhere
Pillow computes all of the result and it is cropped; of more than a megapixel it computes a part, as a `box`
in single precision, where a level may be off by one or two. See docs/decisions/0031-fast-rows.md.
"""

from typing import TypeAlias

import numpy as np
import PIL
from PIL import Image

from service.contract.framing import Interpolation, Span

try:
    from service.contract import _resample
except ImportError:
    _resample = None  # type: ignore[assignment]

IS_COMPILED = _resample is not None
MAX_WHOLE = 1 << 20  # pixels of a result that Pillow computes whole
BAND_BYTES = 1 << 18  # of a Pillow picture that are copied at once

_PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_PILLOW_VERSION = int(PIL.__version__.partition(".")[0])
_KINDS = {"bilinear": 0, "bicubic": 1, "lanczos": 2}
REACH = {"bilinear": 1, "bicubic": 2, "lanczos": 3}  # of a filter, in pixels of the smaller picture

Picture: TypeAlias = Image.Image | np.ndarray
"""A Pillow image of mode L or RGB, or levels (height, width, channels) as jpeg.py decodes them."""


def filtered(
    picture: Picture, resized: tuple[int, int], rows: Span, columns: Span, interpolation: Interpolation
) -> np.ndarray:
    """The part `rows` × `columns`, levels (h, w, 1, 3 or 4), of a picture resized to (height, width)."""
    if IS_COMPILED and not _is_pillows(picture, resized, rows.length * columns.length):
        return _compiled(picture, resized, rows, columns, _KINDS[interpolation])
    if isinstance(picture, np.ndarray):
        picture = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture[..., :3])
    return _by_pillow(picture, resized, rows, columns, _PILLOW[interpolation])


def _is_pillows(picture: Picture, resized: tuple[int, int], kept: int) -> bool:
    """Whether Pillow's own filter takes less time: of one channel, where most of the result is kept.

    Measured of 480 × 640: to 28 × 28 0.33 ms, not 0.67; of 256 × 341 the middle 224 × 224 0.73, not 0.51.
    """
    whole = resized[0] * resized[1]
    return isinstance(picture, Image.Image) and picture.mode == "L" and 4 * kept >= 3 * whole <= 3 * MAX_WHOLE


def _compiled(picture: Picture, resized: tuple[int, int], rows: Span, columns: Span, kind: int) -> np.ndarray:
    """One side after the other, in Pillow's order, of the pixels alone that the part needs."""
    height, width = size_of(picture)
    across = _resample.taps(width, resized[1], columns.start, columns.length, kind)
    down = _resample.taps(height, resized[0], rows.start, rows.length, kind)
    top, bottom = _reach(down, rows.length)
    left, right = _reach(across, columns.length)
    channels = _num_channels(picture)
    part = np.empty((rows.length, columns.length, channels), np.uint8)
    if is_height_before_width((height, width), resized):
        lines = np.empty((rows.length, right - left, channels), np.uint8)
        step = max(1, BAND_BYTES // (channels * (bottom - top)))
        for first in range(left, right, step):
            end = min(first + step, right)
            made = np.empty((rows.length, end - first, channels), np.uint8)
            _resample.rows(_band(picture, (first, top, end, bottom)), channels, top, bottom - top, down, made)
            lines[:, first - left : end - left] = made
        _resample.columns(lines, channels, left, right - left, across, part)
        return part
    if isinstance(picture, np.ndarray):
        left, right = 0, width  # whole lines are no copy
    lines = np.empty((bottom - top, columns.length, channels), np.uint8)
    step = max(1, BAND_BYTES // (channels * (right - left)))
    for first in range(top, bottom, step):
        end = min(first + step, bottom)
        band = _band(picture, (left, first, right, end))
        _resample.columns(band, channels, left, right - left, across, lines[first - top : end - top])
    _resample.rows(lines, channels, top, bottom - top, down, part)
    return part


def is_height_before_width(size: tuple[int, int], resized: tuple[int, int]) -> bool:
    """Whether Pillow resizes the height before the width: since version 13, where it shrinks much more."""
    by_height, by_width = (side - to for side, to in zip(size, resized, strict=True))
    return _PILLOW_VERSION >= 13 and by_height > 0 and by_height > 2 * by_width


def _reach(taps: bytes, length: int) -> tuple[int, int]:
    """The first pixel of a side that any pixel of the part takes, and the one after the last."""
    head = np.frombuffer(taps, np.int32, 2 + 2 * length)
    return int(head[2]), int(head[1 + length] + head[1 + 2 * length])


def _num_channels(picture: Picture) -> int:
    if isinstance(picture, np.ndarray):
        return int(picture.shape[2])
    return 1 if picture.mode == "L" else 4


def _band(picture: Picture, box: tuple[int, int, int, int]) -> bytes | np.ndarray:
    """A part of a picture as it lies in memory: of colours, 4 bytes a pixel, from Pillow's."""
    if isinstance(picture, np.ndarray):
        return np.ascontiguousarray(picture[box[1] : box[3], box[0] : box[2]])
    return picture.crop(box).tobytes("raw", "L" if picture.mode == "L" else "RGBX")


def size_of(picture: Picture) -> tuple[int, int]:
    """Height and width."""
    if isinstance(picture, np.ndarray):
        return picture.shape[0], picture.shape[1]
    return picture.height, picture.width


def _by_pillow(
    image: Image.Image, resized: tuple[int, int], rows: Span, columns: Span, resampling: Image.Resampling
) -> np.ndarray:
    bottom, right = rows.start + rows.length, columns.start + columns.length
    if resized[0] * resized[1] <= MAX_WHOLE:
        whole = image.resize((resized[1], resized[0]), resampling)
        return levels_of(whole)[rows.start : bottom, columns.start : right]
    vertical, horizontal = image.height / resized[0], image.width / resized[1]
    # Never beyond the picture: rounding may put the end of the last pixel there.
    box = (
        columns.start * horizontal,
        rows.start * vertical,
        min(right * horizontal, image.width),
        min(bottom * vertical, image.height),
    )
    return levels_of(image.resize((columns.length, rows.length), resampling, box))


def levels_of(image: Image.Image) -> np.ndarray:
    """Levels (height, width, channels) uint8 of a Pillow picture."""
    return np.asarray(image, np.uint8).reshape(image.height, image.width, -1)
