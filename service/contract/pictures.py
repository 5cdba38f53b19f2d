"""What a picture becomes: the same in training, where it is learnt, and in the service, where it is asked.

In: the bytes of a JPEG, PNG, WebP … file.  Out: pixels (C, H, W) uint8, or a `PictureError`.

    turned as EXIF says → 16 bits to 8 → transparency laid over paper → L or RGB → resized (bilinear)

    row = (pixel / 255 − mean) / std

Paper is black for grey nets, whose ink is light on dark as in MNIST, and white for colour nets, as viewers
show it. 16-bit greys are scaled to 8 bits. Of an animation the first frame counts.
"""

import io
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from service.contract.text import first_line

FORMATS = ("JPEG", "PNG", "WEBP")
GREYS = ("1", "L", "LA", "La", "I", "F")

TILE = 1024  # pixels on a side: what is converted at once

_PAPER = {"L": (0, 0, 0, 255), "RGB": (255, 255, 255, 255)}


class PictureError(Exception):
    """Why bytes are not used as a picture, to be read after a subject: "has 9×9 pixels, at most 4 …"."""


class UnknownFormatError(PictureError):
    """The bytes begin like none of the formats."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What every picture becomes, and how many pixels one may have to be decoded at all."""

    mode: Literal["L", "RGB"]
    height: int
    width: int
    max_pixels: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the pixels, C being 1 or 3."""
        return (1 if self.mode == "L" else 3, self.height, self.width)


def read_pixels(content: bytes | bytearray, target: Target, formats: Sequence[str] = FORMATS) -> np.ndarray:
    """The pixels (C, H, W) uint8 of one picture in one of Pillow's `formats`; raises PictureError."""
    with _decoding(content, target.max_pixels, formats) as decoded:
        image = _in_mode(decoded, target.mode)
        size = (target.width, target.height)
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        pixels_hwc = np.asarray(image, np.uint8).reshape(target.height, target.width, -1)
    return np.ascontiguousarray(pixels_hwc.transpose(2, 0, 1))


def inspect_picture(
    content: bytes | bytearray, max_pixels: int, formats: Sequence[str] = FORMATS
) -> tuple[bool, int, int]:
    """Whether a picture is grey, and its height and width once turned; raises PictureError."""
    with _decoding(content, max_pixels, formats) as image:
        return image.mode.startswith(GREYS), image.height, image.width


def to_row(pixels_chw: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Pixels (C, H, W) uint8 as a row (1, C, H, W) float32; `mean` and `std` hold one value per channel."""
    mean_c11, std_c11 = (np.array(values, np.float32).reshape(-1, 1, 1) for values in (mean, std))
    row_chw: np.ndarray = (pixels_chw.astype(np.float32) / np.float32(255) - mean_c11) / std_c11
    return row_chw[np.newaxis]


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise PictureError if a picture has more than `max_pixels`."""
    if width * height > max_pixels:
        raise PictureError(f"has {width}×{height} pixels, at most {max_pixels} are decoded")


@contextmanager
def _decoding(content: bytes | bytearray, max_pixels: int, formats: Sequence[str]) -> Iterator[Image.Image]:
    """The decoded picture; whatever Pillow raises while it is used becomes a PictureError."""
    try:
        with _pillow_limit_off(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield _open(content, max_pixels, formats)
    except PictureError:
        raise
    except MemoryError:
        raise PictureError("cannot be decoded: it needs too much memory") from None
    except Exception as error:  # decoders raise whatever a hostile file makes them raise
        raise PictureError(f"cannot be decoded: {first_line(error)}") from None


def _open(content: bytes | bytearray, max_pixels: int, formats: Sequence[str]) -> Image.Image:
    if not content:
        raise PictureError("is empty: 0 bytes")
    try:
        image = Image.open(io.BytesIO(content), formats=tuple(formats))
    except UnidentifiedImageError:
        raise UnknownFormatError(f"is none of {', '.join(formats)}") from None
    check_size(*image.size, max_pixels)  # as the header says: before a pixel is decoded
    image.load()
    ImageOps.exif_transpose(image, in_place=True)  # else it copies a picture that needs no turning
    return image


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The picture as L or RGB.

    In tiles, because each step makes a picture anew: at once, 40 Mpx with transparency would take 640 MB, and
    with 16 bits 1.1 GB. Every step changes each pixel by itself, so the tiles' edges cannot be seen.
    """
    if image.mode == mode and not image.has_transparency_data:
        return image
    width, height = image.size
    if width <= TILE and height <= TILE:
        return _tile_in_mode(image, mode)
    whole = Image.new(mode, image.size)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            box = (left, top, min(left + TILE, width), min(top + TILE, height))
            whole.paste(_tile_in_mode(image.crop(box), mode), box)
    return whole


def _tile_in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):
        image = _in_8_bits(image)
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", picture.size, _PAPER[mode]), picture)
    return image.convert(mode)


def _in_8_bits(image: Image.Image) -> Image.Image:
    """16-bit greys scaled to 8 bits, level / 257 rounded, where Pillow would clip them."""
    levels = np.asarray(image).astype(np.uint32 if image.mode.startswith("I;16") else np.int64)
    return Image.fromarray(np.clip((levels + 128) // 257, 0, 255).astype(np.uint8))


class _PillowLimit:
    """How many threads decode, and the limit that Pillow had before the first of them began."""

    lock = threading.Lock()
    num_decoding = 0
    before: int | None = None


@contextmanager
def _pillow_limit_off() -> Iterator[None]:
    """Pillow's own limit on pixels is off for this process until the last thread that decodes has left.

    `max_pixels` takes its place, with a message of ours and as large as it was set. Pillow knows its limit
    only as a variable of its module, so it is set for as long as needed, and not at import.
    """
    with _PillowLimit.lock:
        if _PillowLimit.num_decoding == 0:
            _PillowLimit.before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        _PillowLimit.num_decoding += 1
    try:
        yield
    finally:
        with _PillowLimit.lock:
            _PillowLimit.num_decoding -= 1
            if _PillowLimit.num_decoding == 0:
                Image.MAX_IMAGE_PIXELS = _PillowLimit.before
