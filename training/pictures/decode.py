"""A picture file to pixels, exactly as the service does it: what is trained on is what will be asked.

In: the bytes of a file.  Out: (C, H, W) uint8, or BadPictureError in one sentence.

    turned as EXIF says → 16 bits to 8 → transparency laid over paper → L or RGB → resized (bilinear)

Paper is black for grey nets, whose ink is light on dark as in MNIST, and white for colour nets, as viewers
show it. Of an animation the first frame counts.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
GREYS = ("1", "L", "LA", "La", "I", "F")

_PAPER = {"L": (0, 0, 0, 255), "RGB": (255, 255, 255, 255)}

# Our own limit is checked, and told, before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


class BadPictureError(Exception):
    """A file that is no picture, is damaged, or is too large."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What every picture becomes."""

    mode: Literal["L", "RGB"]
    height: int
    width: int
    max_pixels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (1 if self.mode == "L" else 3, self.height, self.width)


def decode(content: bytes, target: Target) -> np.ndarray:
    """The pixels of one picture, (C, H, W) uint8."""
    with _refusing():
        image = _in_8_bits(_open(content, target.max_pixels))
        image = _without_transparency(image, target.mode).convert(target.mode)
        size = (target.width, target.height)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        pixels_hwc = np.asarray(image, np.uint8).reshape(target.height, target.width, -1)
    return np.ascontiguousarray(pixels_hwc.transpose(2, 0, 1))


def look_at(content: bytes, max_pixels: int) -> tuple[bool, int, int]:
    """Whether a picture is grey, its height and its width."""
    with _refusing():
        image = _open(content, max_pixels)
    return image.mode.startswith(GREYS), image.height, image.width


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BadPictureError:
        raise
    except Exception as error:  # decoders raise whatever a hostile file makes them raise
        raise BadPictureError(_reason(error)) from None


def _open(content: bytes, max_pixels: int) -> Image.Image:
    if not content:
        raise BadPictureError("it is empty")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadPictureError(f"it is none of {', '.join(FORMATS)}") from None
    width, height = image.size
    if width * height > max_pixels:
        raise BadPictureError(f"it has {width}×{height} pixels, at most {max_pixels} are decoded")
    image.load()
    return ImageOps.exif_transpose(image)


def _in_8_bits(image: Image.Image) -> Image.Image:
    """16-bit greys scaled to 8 bits, which Pillow would clip."""
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.clip(np.rint(levels / 257), 0, 255).astype(np.uint8))


def _without_transparency(image: Image.Image, mode: str) -> Image.Image:
    if not image.has_transparency_data:
        return image
    picture = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, _PAPER[mode]), picture)


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "it needs too much memory"
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__
