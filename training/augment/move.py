"""Whole pixels, none of them resampled: moved, mirrored, or painted over.

    out[y, x] = in[y + dy, x + dx]           −reach ≤ dy, dx ≤ reach, even chance for each
    Shift: black where that lies outside.  Crop: the picture mirrored at its edge, the edge itself not twice.
    Flip: left to right.  Cutout: `side`² pixels in `paint` (DeVries and Taylor, 2017, arXiv:1708.04552).

A Crop is what is usually called a random crop of the picture with `reach` pixels of reflected padding. The
square of a Cutout lies wholly inside, so its area is always the same; in the paper it may hang over the edge.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class Shift:
    """Moves by up to `reach` pixels; black flows in, or, in a Crop, the picture's mirror image."""

    reach: int
    is_mirrored: ClassVar[bool] = False

    def draw(self, num_rows: int, generator: Generator) -> Tensor:
        """(num_rows, 2) whole numbers from −reach to reach: dy and dx."""
        return torch.randint(-self.reach, self.reach + 1, (num_rows, 2), generator=generator)

    def apply(self, pixels_nchw: Tensor, drawn: Tensor) -> Tensor:
        """The pictures, moved."""
        return move(pixels_nchw, drawn, mirrored=self.is_mirrored)


class Crop(Shift):
    """A Shift with the picture mirrored at its edge."""

    is_mirrored = True


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Left becomes right in every second picture, by chance."""

    def draw(self, num_rows: int, generator: Generator) -> Tensor:
        """(num_rows,) bool."""
        return torch.rand(num_rows, generator=generator) < 0.5

    def apply(self, pixels_nchw: Tensor, drawn: Tensor) -> Tensor:
        """The pictures, those of `drawn` mirrored."""
        return torch.where(drawn.view(-1, 1, 1, 1), pixels_nchw.flip(3), pixels_nchw)


def move(pixels_nchw: Tensor, offsets: Tensor, *, mirrored: bool) -> Tensor:
    """Each picture by its own (dy, dx), each smaller than the picture."""
    num_rows, channels, height, width = pixels_nchw.shape
    y, y_inside = _places(height, offsets[:, :1], mirrored=mirrored)
    x, x_inside = _places(width, offsets[:, 1:], mirrored=mirrored)
    places = (y[:, :, None] * width + x[:, None, :]).view(num_rows, 1, -1).expand(-1, channels, -1)
    moved = pixels_nchw.flatten(2).gather(2, places).view_as(pixels_nchw)
    if mirrored:
        return moved
    return moved * (y_inside[:, None, :, None] & x_inside[:, None, None, :])


def _places(size: int, offsets: Tensor, *, mirrored: bool) -> tuple[Tensor, Tensor]:
    """Where each of `size` pixels comes from (n, size), and whether that lies inside."""
    places = torch.arange(size, device=offsets.device) + offsets
    inside = (places >= 0) & (places < size)
    if mirrored:
        return (size - 1) - ((size - 1) - places.abs()).abs(), inside
    return places.clamp(0, size - 1), inside


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """`paint` has a level for each channel; the mean of the data becomes 0 once normalised."""

    side: int
    height: int
    width: int
    paint: tuple[int, ...]

    def draw(self, num_rows: int, generator: Generator) -> Tensor:
        """(num_rows, 2): the upper left corner, y and x, each with even chance."""
        y = torch.randint(0, self.height - self.side + 1, (num_rows,), generator=generator)
        x = torch.randint(0, self.width - self.side + 1, (num_rows,), generator=generator)
        return torch.stack([y, x], dim=1)

    def apply(self, pixels_nchw: Tensor, drawn: Tensor) -> Tensor:
        """The pictures, painted over."""
        rows = self._covered(self.height, drawn[:, :1])
        columns = self._covered(self.width, drawn[:, 1:])
        paint = torch.tensor(self.paint, dtype=pixels_nchw.dtype).view(-1, 1, 1)
        paint = paint.to(pixels_nchw.device, non_blocking=True)  # without waiting, see `normalize`
        return torch.where(rows[:, None, :, None] & columns[:, None, None, :], paint, pixels_nchw)

    def _covered(self, size: int, corners: Tensor) -> Tensor:
        places = torch.arange(size, device=corners.device) - corners
        return (places >= 0) & (places < self.side)
