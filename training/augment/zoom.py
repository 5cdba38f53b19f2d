"""A random part of the picture, at the size of the whole: torchvision's RandomResizedCrop, as a batch.

In: pictures, and the part of each.  Out: pictures of the same shape and type, resampled bilinearly.

    area   ~ U(minimum, 1) of the picture's; a side that would be longer than the picture's is cut to it
    aspect = exp U(log ¾, log 4⁄3), relative to the picture's own
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from training.augment.affine import apply_affine

ASPECT = 4 / 3


@dataclass(frozen=True, kw_only=True)
class ResizedCrop:
    """`minimum` is the smallest share of the picture's area, in 0 … 1."""

    minimum: float

    def draw(self, num_rows: int, generator: Generator) -> Tensor:
        """(num_rows, 2, 3): see affine.py."""
        area, aspect, place_x, place_y = torch.rand(4, num_rows, generator=generator)
        area = self.minimum + (1 - self.minimum) * area
        ratio = torch.exp((2 * aspect - 1) * math.log(ASPECT) / 2)
        width, height = ((area.sqrt() * side).clamp(max=1) for side in (ratio, 1 / ratio))
        zero = torch.zeros(num_rows)
        shift_x, shift_y = (1 - width) * (2 * place_x - 1), (1 - height) * (2 * place_y - 1)
        rows = [width, zero, shift_x, zero, height, shift_y]
        return torch.stack(rows, dim=1).view(num_rows, 2, 3)

    def apply(self, pixels_nchw: Tensor, drawn: Tensor) -> Tensor:
        """The parts, enlarged."""
        return apply_affine(pixels_nchw, drawn)
