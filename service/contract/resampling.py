"""A picture in its final mode → the pixels of a row: resized, cropped and padded in one step.

In: a picture and a `Frame`.  Out: pixels (height, width, channels) uint8.

Of a large result only the pixels that the row keeps are computed: all of a 1×65535 picture whose shorter side
becomes 256 would take 12 GB, for a row of 150 kB. What is antialiased is in filters.py.
"""

import numpy as np

from service.contract.filters import (
    BAND_BYTES,
    MAX_WHOLE,
    REACH,
    Picture,
    filtered,
    is_height_before_width,
    levels_of,
    size_of,
)
from service.contract.framing import Frame, Interpolation, Resize, Span, centred

MAX_STEPS = 1 << 20  # of a side's pixels that are added up
MAX_COPIED = 1 << 20  # pixels of a picture that is copied whole

Taps = list[tuple[np.ndarray, np.ndarray]]
"""For each tap of a filter the picture's index and the weight, for each pixel of a row's side."""

_CUBIC = -0.75  # OpenCV's and torch's, where nothing is antialiased; Pillow's filter has −0.5


def framed(picture: Picture, frame: Frame) -> np.ndarray:
    """The pixels (height, width, channels) uint8 of a picture."""
    resized_height, resized_width = frame.resize.resized(*size_of(picture))
    rows = centred(resized_height, frame.height, frame.crop_rounding)
    columns = centred(resized_width, frame.width, frame.crop_rounding)
    part_hwc = _resampled(picture, (resized_height, resized_width), rows, columns, frame.resize)
    part_hwc = part_hwc[..., :3]  # where colours have 4 bytes, the last means nothing
    if part_hwc.shape[:2] == (frame.height, frame.width):
        return part_hwc
    whole_hwc = np.empty((frame.height, frame.width, part_hwc.shape[2]), np.uint8)
    whole_hwc[...] = frame.fill
    whole_hwc[rows.before : rows.before + rows.length, columns.before : columns.before + columns.length] = (
        part_hwc
    )
    return whole_hwc


def working_bytes(height: int, width: int, num_channels: int, frame: Frame) -> int:
    """The maximum of what `framed` holds beside a picture and its row, whichever way it is computed."""
    resize, row_pixels = frame.resize, frame.height * frame.width
    resized_height, resized_width = resize.resized(height, width)
    if (resized_height, resized_width) == (height, width):
        return num_channels * row_pixels
    if resize.interpolation == "nearest" or not resize.antialias:
        taps = {"nearest": 1, "bilinear": 2}.get(resize.interpolation, 4)
        picked = min(height, taps * frame.height) * min(width, taps * frame.width)
        lines = taps * frame.height * width if height * width > MAX_COPIED else height * width
        return num_channels * (picked + lines + 20 * row_pixels)
    made_height, made_width = resized_height, resized_width
    if resized_height * resized_width > MAX_WHOLE:
        made_height, made_width = min(made_height, frame.height), min(made_width, frame.width)
    is_height_first = is_height_before_width((height, width), (resized_height, resized_width))
    lines = made_height * width if is_height_first else height * made_width
    edges = 16 * REACH[resize.interpolation] * (height + width)
    return (1 if num_channels == 1 else 4) * (lines + made_height * made_width) + edges + 4 * BAND_BYTES


def _resampled(
    picture: Picture, resized: tuple[int, int], rows: Span, columns: Span, resize: Resize
) -> np.ndarray:
    height, width = size_of(picture)
    if resized == (height, width):
        right, bottom = columns.start + columns.length, rows.start + rows.length
        if isinstance(picture, np.ndarray):
            return picture[rows.start : bottom, columns.start : right]
        is_whole = (columns.length, rows.length) == picture.size
        return levels_of(picture if is_whole else picture.crop((columns.start, rows.start, right, bottom)))
    if resize.interpolation == "nearest" or not resize.antialias:
        return _interpolated(
            picture,
            _taps(rows, height / resized[0], height, resize.interpolation),
            _taps(columns, width / resized[1], width, resize.interpolation),
        )
    return filtered(picture, resized, rows, columns, resize.interpolation)


def _nearest(span: Span, scale: float) -> np.ndarray:
    """The picture's index for each pixel of a span; added up one by one, as in Pillow, to round alike.

    But not for a part of a result that is too long to be made: 14 million steps would take 230 MB.
    """
    if span.start + span.length > MAX_STEPS:
        return ((np.arange(span.start, span.start + span.length) + 0.5) * scale).astype(np.intp)
    steps = np.full(span.start + span.length, scale)
    steps[0] = scale / 2
    return np.add.accumulate(steps)[span.start :].astype(np.intp)


def _taps(span: Span, scale: float, size: int, interpolation: Interpolation) -> Taps:
    """What each pixel of a span takes from the picture's side of `size` pixels."""
    if interpolation == "nearest":
        return [(_nearest(span, scale), np.ones(span.length, np.float32))]
    centres = (np.arange(span.start, span.start + span.length) + 0.5) * scale - 0.5
    first = np.floor(centres)
    offset = centres - first
    offsets = (0, 1) if interpolation == "bilinear" else (-1, 0, 1, 2)
    weigh = _linear if interpolation == "bilinear" else _cubic
    return [
        (np.clip(first + tap, 0, size - 1).astype(np.intp), weigh(np.abs(offset - tap)).astype(np.float32))
        for tap in offsets
    ]


def _linear(distance: np.ndarray) -> np.ndarray:
    weight: np.ndarray = 1 - distance
    return weight


def _cubic(distance: np.ndarray) -> np.ndarray:
    near = ((_CUBIC + 2) * distance - (_CUBIC + 3)) * distance**2 + 1
    far = ((distance - 5) * distance + 8) * distance * _CUBIC - 4 * _CUBIC
    weight: np.ndarray = np.where(distance <= 1, near, far)
    return weight


def _interpolated(picture: Picture, vertical: Taps, horizontal: Taps) -> np.ndarray:
    """The weighted sums over all pairs of taps, rounded."""
    all_rows, row_places = np.unique([rows for rows, _ in vertical], return_inverse=True)
    all_columns, column_places = np.unique([columns for columns, _ in horizontal], return_inverse=True)
    pixels_hwc = _picked(picture, all_rows, all_columns)
    if len(vertical) == len(horizontal) == 1:
        nearest_hwc: np.ndarray = pixels_hwc[row_places[0][:, np.newaxis], column_places[0]]
        return nearest_hwc
    sum_hwc = np.zeros((len(vertical[0][0]), len(horizontal[0][0]), pixels_hwc.shape[2]), np.float32)
    for rows, (_, row_weights) in zip(row_places, vertical, strict=True):
        for columns, (_, column_weights) in zip(column_places, horizontal, strict=True):
            weights = (row_weights[:, np.newaxis] * column_weights)[..., np.newaxis]
            sum_hwc += weights * pixels_hwc[rows[:, np.newaxis], columns]
    rounded: np.ndarray = np.clip(np.floor(sum_hwc + np.float32(0.5)), 0, 255).astype(np.uint8)
    return rounded


def _picked(picture: Picture, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Some rows and columns of a picture; of a large one line by line: an array is a copy of it all."""
    height, width = size_of(picture)
    if isinstance(picture, np.ndarray) or height * width <= MAX_COPIED:
        levels_hwc = picture if isinstance(picture, np.ndarray) else levels_of(picture)
        picked_hwc: np.ndarray = levels_hwc[rows[:, np.newaxis], columns]
        return picked_hwc
    lines = [levels_of(picture.crop((0, row, width, row + 1)))[0, columns] for row in rows.tolist()]
    return np.stack(lines)
