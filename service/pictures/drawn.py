"""A row of a net as a picture that people can look at.

In: a row as the net receives it, and the preprocessing that made it.
Out: a PNG of its levels as a data URL; its shape and range.
"""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from service.contract.preprocessing import Preprocessing


def drawn_row(row: np.ndarray, preprocessing: Preprocessing) -> dict[str, Any]:
    """The PNG of a row, its shape, and its smallest and largest value."""
    levels = np.rint(preprocessing.levels(row[np.newaxis])[0]).clip(0, 255).astype(np.uint8)
    pixels_hwc = levels if preprocessing.layout == "NHWC" else levels.transpose(1, 2, 0)
    if preprocessing.mode == "BGR":
        pixels_hwc = pixels_hwc[:, :, ::-1]
    pixels = pixels_hwc[:, :, 0] if preprocessing.num_channels == 1 else pixels_hwc
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer := io.BytesIO(), "PNG")
    return {
        "png": f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}",
        "shape": list(row.shape),
        "minimum": float(row.min()),
        "maximum": float(row.max()),
    }
