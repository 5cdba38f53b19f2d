"""What a picture becomes: the same in training, where it is learnt, in export, where it is proved, and in the
service, where it is asked.

In: the bytes of a JPEG, PNG, WebP … file, and a `Target`.  Out: pixels (C, H, W) uint8, or a `PictureError`.

    turned as EXIF says → 16 bits to 8 → transparency laid over the background → grey or colour
    → resized and cropped or padded (framing.py, resampling.py) → channels in the row's order

16-bit greys are scaled to 8 bits, level / 257 rounded; 16-bit colours lose their lower byte, as Pillow reads
them. CMYK becomes RGB by Pillow's formula, without colour profiles. Of an animation the first frame counts.
What the pixels become as a row: preprocessing.py.
"""

import io
import struct
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from service.contract.bytes_like import Buffer
from service.contract.filters import Picture
from service.contract.jpeg import decoded_jpeg
from service.contract.resampling import framed
from service.contract.target import Target, default_background
from service.contract.text import first_line

FORMATS = ("JPEG", "PNG", "WEBP")
GREYS = ("1", "L", "LA", "La", "I", "F")

_STARTS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}

TILE = 1024  # pixels on a side: what is converted at once


class PictureError(Exception):
    """Why bytes are not used as a picture, to be read after a subject: "has 9×9 pixels, at most 4 …"."""


class UnknownFormatError(PictureError):
    """The bytes begin like none of the formats."""


def read_pixels(content: Buffer, target: Target, formats: Sequence[str] = FORMATS) -> np.ndarray:
    """The pixels (C, H, W) uint8 of one picture in one of Pillow's `formats`; raises PictureError."""
    with _opened(content, target.max_pixels, formats) as image:
        levels = _fast_levels(image, content, target)
        pixels_hwc = framed(_in_colours(image, target) if levels is None else levels, target.frame)
    if target.mode == "BGR":
        pixels_hwc = pixels_hwc[..., ::-1]
    return np.ascontiguousarray(pixels_hwc.transpose(2, 0, 1))


def read_image(content: Buffer, target: Target, formats: Sequence[str] = FORMATS) -> Image.Image:
    """A picture as it is before it is resized, in mode L or RGB, decoded by Pillow; raises PictureError."""
    with _opened(content, target.max_pixels, formats) as image:
        return _in_colours(image, target)


def inspect_picture(
    content: Buffer, max_pixels: int, formats: Sequence[str] = FORMATS
) -> tuple[bool, int, int]:
    """Whether a picture is grey, and its height and width once turned; raises PictureError."""
    with _opened(content, max_pixels, formats) as image:
        _turn(image)
        return image.mode.startswith(GREYS), image.height, image.width


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise PictureError if a picture has more than `max_pixels`."""
    if width * height > max_pixels:
        raise PictureError(f"has {width}×{height} pixels, at most {max_pixels} are decoded")


def _fast_levels(image: Image.Image, content: Buffer, target: Target) -> Picture | None:
    """An opened JPEG decoded by simplejpeg, in the target's colours; None of one that Pillow must decode.

    That is one that is turned too, or grey where colours are wanted.
    """
    turn = image.getexif().get(ExifTags.Base.Orientation, 1) if target.is_turned else 1
    if turn != 1 or (image.mode == "L" and target.mode != "L"):
        return None
    levels = decoded_jpeg(image, content)
    if levels is None or target.mode != "L":
        return levels
    if image.mode == "L":  # Pillow's picture: filters.py chooses between the filters
        return Image.frombuffer("L", image.size, levels, "raw", "L", 0, 1)
    return Image.frombuffer("RGB", image.size, levels, "raw", "RGBX", 0, 1).convert("L")


def _in_colours(image: Image.Image, target: Target) -> Image.Image:
    """An opened picture, decoded, turned, and in mode L or RGB."""
    background = default_background(target.mode) if target.background is None else target.background
    if target.is_turned:
        _turn(image)
    image.load()  # a palette's mode is known only then
    return _in_mode(image, "L" if target.mode == "L" else "RGB", background)


def _turn(image: Image.Image) -> None:
    """Decode a picture and turn it as EXIF says."""
    image.load()
    ImageOps.exif_transpose(image, in_place=True)  # else it copies one that needs no turning


@contextmanager
def _opened(content: Buffer, max_pixels: int, formats: Sequence[str]) -> Iterator[Image.Image]:
    """The picture, whose header alone is read; whatever is raised while it is used becomes a PictureError."""
    try:
        with _pillow_limit_off(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield _open(content, max_pixels, formats)
    except PictureError:
        raise
    except MemoryError:
        raise PictureError("cannot be decoded: it needs too much memory") from None
    except Exception as error:  # decoders raise whatever a hostile file makes them raise
        # A PNG that lacks its next chunk: Pillow speaks of buffers.
        ends = isinstance(error.__cause__ or error, EOFError | struct.error)
        reason = "it ends too early" if ends else first_line(error)
        raise PictureError(f"cannot be decoded: {reason}") from None


def _open(content: Buffer, max_pixels: int, formats: Sequence[str]) -> Image.Image:
    if not content:
        raise PictureError("is empty: 0 bytes")
    try:
        image = Image.open(io.BytesIO(content), formats=tuple(formats))
    except UnidentifiedImageError:
        for start, name in _STARTS.items():
            if bytes(content[: len(start)]) == start:
                raise PictureError(f"is a {name} that is broken, or of a kind that is not read") from None
        raise UnknownFormatError(f"is none of {', '.join(formats)}") from None
    width, height = image.size
    check_size(width, height, max_pixels)  # as the header says: before a pixel is decoded
    return image


def _in_mode(image: Image.Image, mode: str, background: tuple[int, ...]) -> Image.Image:
    """The picture as L or RGB.

    In tiles, because each step makes a picture anew: at once, 40 Mpx with transparency would take 640 MB, and
    with 16 bits 1.1 GB. Every step changes each pixel by itself, so the tiles' edges cannot be seen.
    """
    if image.mode == mode and not image.has_transparency_data:
        return image
    width, height = image.size
    if width <= TILE and height <= TILE:
        return _tile_in_mode(image, mode, background)
    whole = Image.new(mode, image.size)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            box = (left, top, min(left + TILE, width), min(top + TILE, height))
            whole.paste(_tile_in_mode(image.crop(box), mode, background), box)
    return whole


def _tile_in_mode(image: Image.Image, mode: str, background: tuple[int, ...]) -> Image.Image:
    if image.mode.startswith("I"):
        image = _in_8_bits(image)
    if image.has_transparency_data and background:
        picture = image.convert("RGBA")
        colour = (*np.broadcast_to(background, 3).tolist(), 255)
        image = Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture)
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
