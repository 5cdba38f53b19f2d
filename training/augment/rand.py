"""RandAugment: two of fourteen changes for each picture, all at one magnitude (Cubuk et al., 2020).

In: pictures (N, C, H, W) with levels 0 … 255, and the changes of each.  Out: the same shape and type.

    draw (N, 2, 2)      for each of 2 changes its number in CHANGES, and the side −1 or 1 that it goes to
    m = magnitude / 10  rotate ±30·m degrees, shear ±0.3·m, shift ±0.45·m of the side, factors 1 ± 0.9·m,
                        solarise from level 255·(1 − m) on, posterise to 8 − 4·m bits
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from training.augment import levels
from training.augment.affine import apply_affine

NUM_CHANGES = 2
# A change takes pictures (n, C, H, W), signs (n,) and m in 0 … 1.
Change = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True, kw_only=True)
class RandAugment:
    """`magnitude` is 1 … 10."""

    magnitude: float

    def draw(self, num_rows: int, generator: Generator) -> Tensor:
        """(num_rows, NUM_CHANGES, 2): which change, and its sign."""
        which = torch.randint(len(CHANGES), (num_rows, NUM_CHANGES), generator=generator)
        signs = 2 * torch.randint(2, (num_rows, NUM_CHANGES), generator=generator) - 1
        return torch.stack([which, signs], dim=2)

    def apply(self, pixels_nchw: Tensor, drawn: Tensor) -> Tensor:
        """The pictures, changed one after the other; to find the rows of a change waits for the device."""
        changed = pixels_nchw.clone()
        for which, signs in zip(drawn[..., 0].unbind(1), drawn[..., 1].unbind(1), strict=True):
            for number, change in enumerate(CHANGES):
                rows = torch.nonzero(which == number).flatten()
                if len(rows):
                    changed[rows] = change(changed[rows], signs[rows].float(), self.magnitude / 10)
        return changed


def _affine(place: tuple[int, int], size: float) -> Change:
    """The identity with `size` · m at `place` of theta."""

    def change(pixels: Tensor, signs: Tensor, m: float) -> Tensor:
        theta = torch.eye(2, 3, device=pixels.device).repeat(len(pixels), 1, 1)
        theta[:, place[0], place[1]] += signs * size * m
        return apply_affine(pixels, theta)

    return change


def _rotate(pixels: Tensor, signs: Tensor, m: float) -> Tensor:
    angles = signs * math.radians(30 * m)
    cos, sin, zero = torch.cos(angles), torch.sin(angles), torch.zeros_like(angles)
    # Theta is in shares of each side, so a turn of a wide picture needs their ratio.
    ratio = pixels.shape[2] / pixels.shape[3]
    rows = [cos, -sin * ratio, zero, sin / ratio, cos, zero]
    return apply_affine(pixels, torch.stack(rows, dim=1).view(-1, 2, 3))


def _factor(blend: Callable[[Tensor, Tensor], Tensor]) -> Change:
    return lambda pixels, signs, m: blend(pixels, 1 + signs * 0.9 * m)


def _solarise(pixels: Tensor, signs: Tensor, m: float) -> Tensor:
    return torch.where(pixels >= 255 * (1 - m), 255 - pixels, pixels)


def _posterise(pixels: Tensor, signs: Tensor, m: float) -> Tensor:
    step = 1 << round(4 * m)
    return (pixels / step).floor().mul(step).to(pixels.dtype)


def _autocontrast(pixels: Tensor, signs: Tensor, m: float) -> Tensor:
    """Each channel stretched to 0 … 255; one of a single level stays."""
    values = pixels if pixels.is_floating_point() else pixels.float()
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    stretched = (values - low) * (255 / (high - low).clamp(min=1))
    return levels.as_levels(torch.where(high > low, stretched, values), pixels)


def _equalise(pixels: Tensor, signs: Tensor, m: float) -> Tensor:
    """Each level becomes the share of its channel's pixels below it or at it, times 255."""
    num_rows, channels, height, width = pixels.shape
    index = pixels.round().long().clamp(0, 255).view(num_rows * channels, -1)
    counts = torch.zeros(len(index), 256, device=pixels.device)
    counts.scatter_add_(1, index, torch.ones((), device=pixels.device).expand_as(index))
    shares = counts.cumsum(1)
    first = counts.gather(1, index.amin(1, keepdim=True))  # so that the darkest level becomes 0
    scaled = 255 * (shares - first) / (height * width - first).clamp(min=1)
    equal = torch.where(first == height * width, index.float(), scaled.gather(1, index))
    return levels.as_levels(equal.view_as(pixels), pixels)


CHANGES: tuple[Change, ...] = (
    lambda pixels, signs, m: pixels,
    _autocontrast,
    _equalise,
    _rotate,
    _solarise,
    _posterise,
    _factor(levels.saturation),
    _factor(levels.contrast),
    _factor(levels.brightness),
    _factor(levels.sharpness),
    _affine((0, 1), 0.3),
    _affine((1, 0), 0.3),
    _affine((0, 2), 0.9),
    _affine((1, 2), 0.9),
)
