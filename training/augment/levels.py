"""Changes of a picture's levels, each row by its own factor; no pixel moves.

In: pictures (N, C, H, W) with levels 0 … 255, and factors (N,).  Out: the same shape and type.

    blend(base, x, f) = base + f · (x − base), within 0 … 255       f = 1 changes nothing
    brightness   base = 0                  contrast    base = the mean grey of the picture
    saturation   base = its grey pixels    sharpness   base = the picture smoothed over 3 × 3
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional

# ITU-R 601-2, as Pillow's "L".
GREY = (0.299, 0.587, 0.114)
SMOOTH = ((1, 1, 1), (1, 5, 1), (1, 1, 1))


def as_levels(levels: Tensor, like: Tensor) -> Tensor:
    """Levels as pictures of the type of `like`: rounded where that is uint8."""
    levels = levels.clamp(0, 255)
    return levels.to(like.dtype) if like.is_floating_point() else levels.round().to(torch.uint8)


def blend(pixels_nchw: Tensor, base: Tensor, factors: Tensor) -> Tensor:
    """`base` at a factor of 0, the picture at 1, and beyond it above 1."""
    base = base.to(factors.dtype)
    return as_levels(base + factors.view(-1, 1, 1, 1) * (pixels_nchw - base), pixels_nchw)


def grey(pixels_nchw: Tensor) -> Tensor:
    """(N, 1, H, W) floating."""
    levels = pixels_nchw if pixels_nchw.is_floating_point() else pixels_nchw.float()
    if levels.shape[1] == 1:
        return levels
    weights = torch.tensor(GREY, dtype=levels.dtype).to(levels.device, non_blocking=True)
    return (levels * weights.view(-1, 1, 1)).sum(1, keepdim=True)


def brightness(pixels_nchw: Tensor, factors: Tensor) -> Tensor:
    """Every level times the factor."""
    return blend(pixels_nchw, torch.zeros_like(pixels_nchw), factors)


def contrast(pixels_nchw: Tensor, factors: Tensor) -> Tensor:
    """Away from the mean grey of each picture, or towards it."""
    return blend(pixels_nchw, grey(pixels_nchw).mean((2, 3), keepdim=True), factors)


def saturation(pixels_nchw: Tensor, factors: Tensor) -> Tensor:
    """Away from grey, or towards it; a grey picture stays as it is."""
    return blend(pixels_nchw, grey(pixels_nchw), factors)


def sharpness(pixels_nchw: Tensor, factors: Tensor) -> Tensor:
    """Away from the smoothed picture, or towards it."""
    levels = pixels_nchw if pixels_nchw.is_floating_point() else pixels_nchw.float()
    channels = levels.shape[1]
    kernel = torch.tensor(SMOOTH, dtype=levels.dtype).to(levels.device, non_blocking=True)
    kernel = (kernel / kernel.sum()).expand(channels, 1, 3, 3)
    smooth = functional.conv2d(functional.pad(levels, [1] * 4, "replicate"), kernel, groups=channels)
    return blend(pixels_nchw, smooth, factors)


CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (brightness, contrast, saturation)


@dataclass(frozen=True, kw_only=True)
class Colour:
    """Brightness, contrast and saturation, each by a factor of 1 − strength … 1 + strength."""

    strength: float

    def draw(self, num_rows: int, generator: Generator) -> Tensor:
        """(num_rows, 3) factors."""
        return 1 + self.strength * (2 * torch.rand(num_rows, len(CHANGES), generator=generator) - 1)

    def apply(self, pixels_nchw: Tensor, drawn: Tensor) -> Tensor:
        """The pictures, recoloured."""
        for change, factors in zip(CHANGES, drawn.unbind(1), strict=True):
            pixels_nchw = change(pixels_nchw, factors)
        return pixels_nchw
