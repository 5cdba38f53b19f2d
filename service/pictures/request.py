"""The pictures of one request, and what each becomes: a row of the net.

In: files, and a model's preprocessing.  Out: their weights, or rows (N, C, H, W) float32, or a BadPicture.

Everything here computes, and is called in a thread or for a single small picture.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from service.contract.bytes_like import Buffer
from service.contract.pictures import PictureError, UnknownFormatError, read_pixels
from service.contract.preprocessing import Preprocessing
from service.errors import BadPicture
from service.pictures.form import Picture
from service.pictures.weight import Weight, weigh


class PictureRequest:
    """The pictures of a request, and what they are to become; `pictures` is its own from then on."""

    def __init__(self, pictures: list[Picture], preprocessing: Preprocessing, max_pixels: int) -> None:
        self.pictures = pictures
        self.target = preprocessing.target(max_pixels)
        self.num_file_bytes = sum(len(content) for _, content in pictures)
        # Each value once as uint8 and once as float32.
        self.row_bytes = len(pictures) * 5 * math.prod(self.target.shape)
        self._preprocessing = preprocessing

    def take_contents(self) -> list[Buffer]:
        """The files' bytes, which the request keeps no longer."""
        contents = [content for _, content in self.pictures]
        self.pictures.clear()
        return contents

    def weigh(self) -> list[Weight]:
        """The weight of each picture; raises BadPicture."""
        weights = []
        for file, content in self.pictures:
            with _naming(file):
                weights.append(weigh(content, self.target))
        return weights

    def decode(self) -> np.ndarray:
        """The rows, decoded here; raises BadPicture."""
        pixels = []
        for file, content in self.pictures:
            with _naming(file):
                pixels.append(read_pixels(content, self.target))
        return self.to_rows(pixels)

    def to_rows(self, pixels: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Rows (N, C, H, W) float32 of N pictures' pixels (C, H, W) uint8."""
        rows = np.empty((len(pixels), *self._preprocessing.row_shape), np.float32)
        for row, pixels_chw in zip(rows, pixels, strict=True):
            self._preprocessing.write_row(pixels_chw, row)
        return rows


def bad_picture(file: str | None, error: PictureError) -> BadPicture:
    """What the client reads of a picture's error, with the name of the file that it is about."""
    if isinstance(error, UnknownFormatError):
        reason = "the body is not a JPEG, PNG or WebP picture"
    else:
        reason = f"the picture {error}"
    return BadPicture(f"{file}: {reason}" if file else reason)


@contextmanager
def _naming(file: str | None) -> Iterator[None]:
    """Raise a picture's error as what the client reads."""
    try:
        yield
    except PictureError as error:
        raise bad_picture(file, error) from None
