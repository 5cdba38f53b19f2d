"""Cutout: one square of each picture is painted over (DeVries and Taylor, 2017, arXiv:1708.04552).

In: pictures, and a corner for each.  Out: the same pictures with `side`² pixels of each in `paint`.

The square lies wholly inside, so its area is always the same; in the paper it may hang over the edge.
"""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor


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
