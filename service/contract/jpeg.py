"""A JPEG's levels by libjpeg-turbo alone: the same as Pillow's, a quarter sooner and without a copy.

In: a file whose header Pillow has read.  Out: levels, or None where Pillow is to decode it.

simplejpeg is optional. Every level is Pillow's, because both run libjpeg-turbo with its exact DCT and smooth
upsampling. What takes several scans, or is broken, is left to Pillow: it says what is wrong, and a hostile
file costs at most one baseline scan more. See docs/decisions/0031-fast-rows.md.
"""

import numpy as np
from PIL import Image

from service.contract.bytes_like import Buffer

try:
    from simplejpeg import decode_jpeg
except ImportError:
    decode_jpeg = None

IS_FAST = decode_jpeg is not None
_CHANNELS = {"RGB": ("RGBX", 4), "L": ("GRAY", 1)}


def decoded_jpeg(opened: Image.Image, content: Buffer) -> np.ndarray | None:
    """Levels (height, width, 4) of RGB and a byte without meaning, or (height, width, 1) of grey.

    None for whatever Pillow must decode.
    """
    is_baseline = opened.format == "JPEG" and "progressive" not in opened.info
    if decode_jpeg is None or not is_baseline or opened.mode not in _CHANNELS:
        return None
    colours, num_channels = _CHANNELS[opened.mode]
    # A buffer of the size that was checked: a file that states another one is refused before it is decoded.
    levels = np.empty((opened.height, opened.width, num_channels), np.uint8)
    try:
        made: np.ndarray = decode_jpeg(content, colours, buffer=levels)
    except ValueError:
        return None
    return made if made.shape == levels.shape else None
