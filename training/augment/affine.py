"""Each picture by a transformation of its own, resampled bilinearly; black flows in from outside.

In: pictures, and for each a matrix from its own coordinates −1 … 1 to those of the picture before:

    theta = [ cos a / s   −sin a / s   shift_x ]        a: rotation,  s: scale,
            [ sin a / s    cos a / s   shift_y ]        shifts as a share of half the picture

Out: pictures of the same shape and type.

    Affine         turned, scaled and shifted a little
    ResizedCrop    a random part, at the size of the whole: torchvision's RandomResizedCrop, as a batch

        area   ~ U(minimum, 1) of the picture's; a side that would be longer than the picture's is cut to it
        aspect = exp U(log ¾, log 4⁄3), relative to the picture's own
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

ASPECT = 4 / 3  # of a ResizedCrop, relative to the picture's own


@dataclass(frozen=True, kw_only=True)
class Affine:
    """The largest change that a picture may suffer; each is drawn evenly on both sides of none."""

    degrees: float = 12.0
    scale: float = 0.12
    shift: float = 0.12

    def __post_init__(self) -> None:
        if not (self.degrees >= 0 and 0 <= self.scale < 1 and self.shift >= 0):
            raise ValueError(f"degrees and shift must be ≥ 0 and scale in [0, 1), got {self}")

    def draw(self, num_rows: int, generator: Generator) -> Tensor:
        """One transformation for each row: (num_rows, 2, 3)."""
        return draw_affine(num_rows, self, generator)

    def apply(self, pixels_nchw: Tensor, drawn: Tensor) -> Tensor:
        """The pictures, transformed."""
        return apply_affine(pixels_nchw, drawn)


def draw_affine(num_rows: int, limits: Affine, generator: Generator) -> Tensor:
    """Draw one transformation for each row: (num_rows, 2, 3), in picture coordinates −1 … 1."""
    turn, zoom, shift_x, shift_y = torch.rand(4, num_rows, generator=generator) * 2 - 1
    angle = turn * math.radians(limits.degrees)
    inverse_scale = 1 / (1 + zoom * limits.scale)
    cos, sin = torch.cos(angle) * inverse_scale, torch.sin(angle) * inverse_scale
    rows = [cos, -sin, shift_x * limits.shift, sin, cos, shift_y * limits.shift]
    return torch.stack(rows, dim=1).view(num_rows, 2, 3)


def apply_affine(pixels_nchw: Tensor, theta: Tensor) -> Tensor:
    """Turn, scale and shift each picture by its own `theta`; uint8 is rounded to the nearest level."""
    is_float = pixels_nchw.is_floating_point()
    grid = functional.affine_grid(theta, list(pixels_nchw.shape), align_corners=False)
    pixels = pixels_nchw if is_float else pixels_nchw.float()
    moved = functional.grid_sample(pixels, grid.to(pixels.dtype), mode="bilinear", align_corners=False)
    return moved if is_float else moved.round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class ResizedCrop:
    """`minimum` is the smallest share of the picture's area, in 0 … 1."""

    minimum: float

    def draw(self, num_rows: int, generator: Generator) -> Tensor:
        """(num_rows, 2, 3): as of `draw_affine`."""
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
