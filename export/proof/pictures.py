"""Golden pictures: one of each kind that decoders and pipelines treat differently, made here.

In: a preprocessing, and the source's own pipeline.  Out: encoded pictures, and the rows that it makes.

Where the source has no pipeline of its own, its rows are those of `plain_row`: Pillow's steps one after
another, in float64, with none of the shortcuts of the contract's implementation.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from export.errors import ProofError
from export.sources.source import Source
from service.contract.framing import Resize
from service.contract.golden_pictures import MAX_PIXELS, is_within, picture_difference
from service.contract.pictures import read_image
from service.contract.preprocessing import Preprocessing

MAX_SIDE = 1600  # of the picture that is larger than the net's
PLAIN = "the declared preprocessing, step by step in Pillow"
_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True, kw_only=True)
class PictureProof:
    """Encoded pictures, their golden rows (N, …) in the input's dtype, whose those are, our differences."""

    pictures: Mapping[str, bytes]
    rows: np.ndarray
    pipeline: str
    differences: Mapping[str, float]


def prove_pictures(source: Source) -> PictureProof | None:
    """Make the pictures and compare both pipelines; None if the net takes none.

    Raises ProofError where they differ by more than a level of 255, or where the source's own makes no row.
    """
    preprocessing = source.preprocessing
    if preprocessing is None or len(source.inputs) != 1:
        return None
    given = source.pixels or preprocessing
    pictures = golden_pictures(preprocessing.height, preprocessing.width)
    pipeline = source.pipeline
    rows = []
    for content in pictures.values():
        image = read_image(content, preprocessing.target(MAX_PIXELS))
        row = plain_row(image, given) if pipeline is None else pipeline.row(image)
        if row.shape != given.row_shape:
            raise ProofError(
                f"{PLAIN if pipeline is None else pipeline.words} makes a row of shape {list(row.shape)}, "
                f"the net takes {list(given.row_shape)}"
            )
        if source.pixels is not None:  # the graph takes levels
            row = np.clip(np.rint(given.levels(row[np.newaxis])[0]), 0, 255)
        rows.append(row.astype(source.inputs[0].dtype))
    words = PLAIN if pipeline is None else pipeline.words
    differences = {}
    for row, (name, content) in zip(rows, pictures.items(), strict=True):
        differences[name] = picture_difference(content, row, preprocessing)
        if not is_within(differences[name]):
            raise ProofError(
                f"the declared preprocessing is not {words}: picture '{name}' differs by "
                f"{255 * differences[name]:.3g} of 255 levels, at most 1 is allowed"
            )
    return PictureProof(pictures=pictures, rows=np.stack(rows), pipeline=words, differences=differences)


def plain_row(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """The row, float64, of a picture in mode L or RGB."""
    resize = preprocessing.complete().resize
    assert resize is not None
    height, width = resize.resized(image.height, image.width)
    pixels_hwc = _resized(image, resize, height, width)
    row_sides = (preprocessing.height, preprocessing.width)
    padding = [max(0, row - side) for row, side in zip(row_sides, (height, width), strict=True)]
    edges = [(pad // 2, pad - pad // 2) for pad in padding]
    whole_hwc = np.empty((height + padding[0], width + padding[1], pixels_hwc.shape[2]))
    whole_hwc[...] = preprocessing.fill
    whole_hwc[edges[0][0] : edges[0][0] + height, edges[1][0] : edges[1][0] + width] = pixels_hwc
    down = preprocessing.crop_rounding == "down"
    top, left = (
        (side - row) // 2 if down else round((side - row) / 2.0)
        for side, row in zip(whole_hwc.shape[:2], row_sides, strict=True)
    )
    crop_hwc = whole_hwc[top : top + row_sides[0], left : left + row_sides[1]]
    if preprocessing.mode == "BGR":
        crop_hwc = crop_hwc[..., ::-1]
    row_hwc: np.ndarray = (crop_hwc * preprocessing.scale - preprocessing.mean) / preprocessing.std
    row_chw: np.ndarray = row_hwc.transpose(2, 0, 1)
    return row_hwc if preprocessing.layout == "NHWC" else row_chw


def _resized(image: Image.Image, resize: Resize, height: int, width: int) -> np.ndarray:
    if resize.antialias or resize.interpolation == "nearest" or (height, width) == image.size[::-1]:
        image = image.resize((width, height), _FILTERS[resize.interpolation])
        return np.asarray(image, np.float64).reshape(height, width, -1)
    pixels = np.asarray(image, np.float64).reshape(image.height, image.width, -1)
    vertical = _weights(image.height, height, resize.interpolation)
    horizontal = _weights(image.width, width, resize.interpolation)
    sums: np.ndarray = np.einsum("yh,hwc,xw->yxc", vertical, pixels, horizontal, optimize=True)
    return sums.round().clip(0, 255)


def _weights(size: int, resized: int, interpolation: str) -> np.ndarray:
    """What each pixel of a resized side takes from each pixel of the side, without antialias."""
    weights = np.zeros((resized, size))
    for place in range(resized):
        centre = (place + 0.5) * size / resized - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            distance = abs(centre - tap)
            weights[place, min(max(tap, 0), size - 1)] += _kernel(distance, interpolation)
    return weights


def _kernel(distance: float, interpolation: str) -> float:
    if interpolation == "bilinear":
        return max(0.0, 1 - distance)
    if distance <= 1:
        return 1.25 * distance**3 - 2.25 * distance**2 + 1
    return -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4) if distance < 2 else 0.0


def golden_pictures(height: int, width: int) -> dict[str, bytes]:
    """Encoded pictures by what is special about each, for a net of height×width."""
    large = (min(MAX_SIDE, 2 * width + 37), min(MAX_SIDE, 2 * height - height // 3 + 11))
    landscape, portrait = _drawing(96, 61), _drawing(55, 90)
    pictures = {
        "landscape": _encoded(landscape, "JPEG", quality=90),
        "portrait": _encoded(portrait, "PNG"),
        "larger": _encoded(_drawing(*large), "JPEG", quality=85),
        "grey": _encoded(landscape.convert("L"), "PNG"),
        "palette": _encoded(portrait.convert("P", palette=Image.Palette.ADAPTIVE), "PNG"),
        "alpha": _encoded(_with_alpha(landscape), "PNG"),
        "16-bit": _encoded(_deep(72, 50), "PNG"),
        "cmyk": _encoded(landscape.convert("CMYK"), "JPEG", quality=90),
        "webp": _encoded(portrait, "WEBP", quality=85),
        "progressive": _encoded(portrait, "JPEG", quality=90, progressive=True),
        "1-pixel-high": _encoded(_drawing(64, 1), "PNG"),
    }
    for turn in range(2, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        pictures[f"exif-{turn}"] = _encoded(_drawing(40, 28), "JPEG", quality=90, exif=exif)
    return pictures


def _drawing(width: int, height: int) -> Image.Image:
    """A gradient, a disc and stripes: no symmetry, and edges on which filters differ."""
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([255 * x / width, 255 * y / max(height, 2), 255 * (x + y) / (width + height)], axis=-1)
    disc = (x - 0.35 * width) ** 2 + (y - 0.4 * height) ** 2 < (0.25 * min(width, max(height, 4))) ** 2
    pixels[disc] = (230, 40, 60)
    pixels[(x + 2 * y) % 11 < 3] *= 0.45
    return Image.fromarray(pixels.round().astype(np.uint8))


def _with_alpha(image: Image.Image) -> Image.Image:
    alpha = np.linspace(0, 255, image.width * image.height).reshape(image.height, image.width)
    image = image.copy()
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return image


def _deep(width: int, height: int) -> Image.Image:
    levels = np.asarray(_drawing(width, height).convert("L"), np.uint16) * 257
    return Image.fromarray(levels + np.arange(width, dtype=np.uint16) % 100)


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
