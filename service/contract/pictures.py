"""A picture to a row: the bytes of a JPEG, PNG or WebP in, what the net was trained on out.

In: bytes and the manifest's preprocessing.  Out: (1, C, H, W) float32, or BadPicture in one sentence.

    row = (pixel / 255 − mean) / std      pixel: turned as EXIF says, made L or RGB, resized (bilinear)

Transparency is laid over black for grey nets, whose ink is light on dark as in MNIST, and over white for
colour nets, as viewers show it. 16-bit pictures are scaled to 8 bits. Of an animation the first frame counts.
"""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from service.contract.manifest import Preprocessing
from service.errors import BadPicture

FORMATS = ("JPEG", "PNG", "WEBP")

_PAPER = {"L": (0, 0, 0, 255), "RGB": (255, 255, 255, 255)}

# Our own limit is checked, and told, before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None


def read_picture(content: bytes, preprocessing: Preprocessing, max_pixels: int) -> np.ndarray:
    """The row for one picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = _decode(content, max_pixels)
            image = _without_transparency(_in_8_bits(image), preprocessing.mode).convert(preprocessing.mode)
            size = (preprocessing.width, preprocessing.height)
            if image.size != size:
                image = image.resize(size, Image.Resampling.BILINEAR)
    except BadPicture:
        raise
    except Exception as error:  # decoders raise whatever a hostile file makes them raise
        raise BadPicture(f"the picture cannot be decoded: {_reason(error)}") from None
    pixels_hwc = np.asarray(image, np.float32).reshape(preprocessing.height, preprocessing.width, -1)
    mean, std = (np.array(values, np.float32) for values in (preprocessing.mean, preprocessing.std))
    row_hwc = (pixels_hwc / np.float32(255) - mean) / std
    return np.ascontiguousarray(row_hwc.transpose(2, 0, 1)[np.newaxis])


def _decode(content: bytes, max_pixels: int) -> Image.Image:
    if not content:
        raise BadPicture("the picture is empty: 0 bytes")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise BadPicture("the body is not a JPEG, PNG or WebP picture") from None
    width, height = image.size
    if width * height > max_pixels:
        raise BadPicture(f"the picture has {width}×{height} pixels, at most {max_pixels} are decoded")
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
