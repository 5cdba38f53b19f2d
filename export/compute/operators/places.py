"""Pictures read between their pixels, at many places at once.

    x(y, x) = Σ over the four pixels around of (1 − |y − y_k|) · (1 − |x − x_k|) · x[y_k, x_k]

What lies outside of the picture is 0.
"""

import numpy as np


def interpolated(pictures: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """(n, part, C, H, W) at places (n, part, A, B, rows, columns): (n, part, C, A · B, rows · columns)."""
    height, width = pictures.shape[3:]
    flat = pictures.reshape(*pictures.shape[:3], height * width)
    top, left = np.floor(y), np.floor(x)
    total = np.zeros((*flat.shape[:3], y[0, 0].size))
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        at_y, at_x = top + row, left + column
        share = (1 - abs(y - at_y)) * (1 - abs(x - at_x))
        inside = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
        place = np.where(inside, at_y * width + at_x, 0).astype(np.int64).reshape(*flat.shape[:2], 1, -1)
        found = np.take_along_axis(flat, np.broadcast_to(place, (*flat.shape[:3], place.shape[3])), axis=3)
        total += found * np.where(inside, share, 0).reshape(*flat.shape[:2], 1, -1)
    return total.reshape(*flat.shape[:3], y.shape[2] * y.shape[3], -1)
