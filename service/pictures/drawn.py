"""A row of a net as a picture that people can look at.

In: a row (C, H, W), normalised; the normalisation.  Out: a PNG of its pixels as a data URL; its range.

    pixel = 255 · (row · std + mean)
"""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image


def drawn_row(row_chw: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> dict[str, Any]:
    """The PNG of a row, its shape, and its smallest and largest value."""
    mean_c11, std_c11 = (np.array(values).reshape(-1, 1, 1) for values in (mean, std))
    pixels_chw = np.rint(255 * (row_chw * std_c11 + mean_c11)).clip(0, 255).astype(np.uint8)
    pixels = pixels_chw[0] if len(pixels_chw) == 1 else pixels_chw.transpose(1, 2, 0)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return {
        "png": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "shape": list(row_chw.shape),
        "minimum": float(row_chw.min()),
        "maximum": float(row_chw.max()),
    }
