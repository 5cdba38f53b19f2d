"""Pictures as the bytes that a service reads.

In: a path, a file's bytes, a Pillow picture, or pixels (height, width) or (height, width, 3 or 4), uint8.
Out: the content of a picture file.
"""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from foldserve.client.errors import BadRequest

Picture = str | os.PathLike[str] | bytes | np.ndarray | Any
_COLOURS = {1: 0, 3: 2, 4: 6}  # channels → PNG's colour type


def encoded(picture: Picture) -> bytes:
    """The picture's bytes, as they are or as a new PNG; raises BadRequest or OSError."""
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, np.ndarray):
        return png(picture)
    if isinstance(picture, (str, os.PathLike)):
        return Path(picture).read_bytes()
    if hasattr(picture, "save"):
        picture.save(buffer := io.BytesIO(), "PNG")
        return buffer.getvalue()
    raise BadRequest(
        f"a picture is a path, bytes, uint8 pixels or a Pillow picture, got {type(picture).__name__}"
    )


def png(pixels: np.ndarray) -> bytes:
    """Pixels as a PNG file, without loss and without another library."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[-1] if pixels.ndim == 3 else 0
    if pixels.dtype != np.uint8 or channels not in _COLOURS or not pixels.size:
        raise BadRequest(
            f"pixels are uint8 of shape (height, width) or (height, width, 3 or 4), "
            f"got {pixels.dtype} of shape {pixels.shape}"
        )
    height, width = pixels.shape[:2]
    rows = pixels.reshape(height, width * channels)
    unfiltered = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(unfiltered, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
