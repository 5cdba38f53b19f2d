"""Golden pictures as the report shows them: the file, the row that it becomes, and the difference.

In: a preprocessing and a `PictureProof`.  Out: data URIs, which need no network.
"""

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from export.proof.pictures import PictureProof
from service.contract.preprocessing import Preprocessing

MAX_SIDE = 96  # of a shown picture


@dataclass(frozen=True, kw_only=True)
class ShownPicture:
    """A picture and its row as data URIs; `levels` is the difference in levels of 255."""

    name: str
    picture: str
    row: str
    levels: float
    pipeline: str


def shown_pictures(preprocessing: Preprocessing | None, proof: PictureProof | None) -> list[ShownPicture]:
    """One for each golden picture; none where the net takes no pictures."""
    if preprocessing is None or proof is None:
        return []
    levels = np.clip(np.rint(preprocessing.levels(proof.rows)), 0, 255).astype(np.uint8)
    return [
        ShownPicture(
            name=name,
            picture=_thumbnail(Image.open(io.BytesIO(content))),
            row=_thumbnail(_image(row, preprocessing)),
            levels=255 * proof.differences[name],
            pipeline=proof.pipeline,
        )
        for row, (name, content) in zip(levels, proof.pictures.items(), strict=True)
    ]


def _image(levels: np.ndarray, preprocessing: Preprocessing) -> Image.Image:
    pixels_hwc = levels if preprocessing.layout == "NHWC" else levels.transpose(1, 2, 0)
    if preprocessing.mode == "BGR":
        pixels_hwc = pixels_hwc[..., ::-1]
    return Image.fromarray(
        np.ascontiguousarray(pixels_hwc).squeeze(2) if preprocessing.mode == "L" else pixels_hwc
    )


def _thumbnail(image: Image.Image) -> str:
    """A PNG of at most `MAX_SIDE`, since not every browser shows CMYK or 16 bits."""
    image = image.point(lambda level: level / 257).convert("L") if image.mode.startswith("I") else image
    image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
