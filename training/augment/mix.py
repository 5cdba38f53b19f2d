"""Mixing: each picture of a batch with the one before it, and their labels in the same shares.

In: pictures (N, C, H, W), labels (N,) and what is drawn for each.  Out: pictures and targets (N, K).

    s ~ Beta(α, α)
    mixup     x ← s·x + (1 − s)·x′                    target ← s·y + (1 − s)·y′      (Zhang et al., 2018)
    cutmix    a box of about (1 − s)·H·W pixels of x′ in x; s becomes what is left   (Yun et al., 2019)

x′ is the previous picture of the batch; of several processes each mixes its own rows of it.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from training.augment.levels import as_levels


@dataclass(frozen=True, kw_only=True)
class Mixup:
    """Small α: mostly one of the two pictures."""

    alpha: float

    def draw(self, num_rows: int, generator: Generator) -> Tensor:
        """(num_rows, 1): the share s of each picture."""
        return draw_beta(self.alpha, num_rows, generator)[:, None]

    def apply(self, pixels_nchw: Tensor, drawn: Tensor) -> Tensor:
        """The pictures, each with the one before it shining through."""
        shares = drawn[:, :1, None, None].to(torch.float32)
        return as_levels(shares * pixels_nchw + (1 - shares) * pixels_nchw.roll(1, 0), pixels_nchw)


@dataclass(frozen=True, kw_only=True)
class CutMix:
    """The box lies wholly inside, at any place with even chance."""

    alpha: float
    height: int
    width: int

    def draw(self, num_rows: int, generator: Generator) -> Tensor:
        """(num_rows, 5): the share s, then top, bottom, left and right of the box."""
        side = (1 - draw_beta(self.alpha, num_rows, generator)).sqrt()
        edges = []
        for size in (self.height, self.width):
            length = (side * size).round()
            first = (torch.rand(num_rows, generator=generator) * (size + 1 - length)).floor()
            edges += [first, first + length]
        area = (edges[1] - edges[0]) * (edges[3] - edges[2])
        return torch.stack([1 - area / (self.height * self.width), *edges], dim=1)

    def apply(self, pixels_nchw: Tensor, drawn: Tensor) -> Tensor:
        """The pictures, each with a box of the one before it."""
        rows = _between(self.height, drawn[:, 1:3])
        columns = _between(self.width, drawn[:, 3:5])
        inside = rows[:, None, :, None] & columns[:, None, None, :]
        return torch.where(inside, pixels_nchw.roll(1, 0), pixels_nchw)


Mixing = Mixup | CutMix


def mix_labels(labels: Tensor, drawn: Tensor, num_classes: int) -> Tensor:
    """Labels (N,) as targets (N, K): each in its share, and the one before it in the rest."""
    targets, shares = functional.one_hot(labels, num_classes).float(), drawn[:, :1].float()
    return shares * targets + (1 - shares) * targets.roll(1, 0)


def draw_beta(alpha: float, num_rows: int, generator: Generator) -> Tensor:
    """(num_rows,) of Beta(α, α), float32: torch has no such draw from a given generator, NumPy has."""
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, num_rows).astype(np.float32))


def _between(size: int, edges: Tensor) -> Tensor:
    places = torch.arange(size, device=edges.device)
    return (places >= edges[:, :1]) & (places < edges[:, 1:])
