"""Chance drawn beforehand, for a whole epoch; applying it is a pure function of the batch and its rows.

In: steps and a generator.  Out: a `Plan`, which is indexed by rows like the pictures themselves.

    plan = augmentation.draw(num_rows, generator)        on the CPU, so every device sees the same pictures
    pixels = plan[rows].apply(pixels)                    on the device; any process takes its rows of one draw
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor


class Step(Protocol):
    """One kind of change: what is drawn for each row, and what it does to a batch (N, C, H, W)."""

    def draw(self, num_rows: int, generator: Generator) -> Tensor:
        """(num_rows, …), on the CPU."""
        ...

    def apply(self, pixels_nchw: Tensor, drawn: Tensor) -> Tensor:
        """A batch of the same shape and type; `drawn` has an entry for each of its rows."""
        ...


@dataclass(frozen=True)
class Augmentation:
    """Steps, applied one after the other; none at all leaves the pictures as they are."""

    steps: tuple[Step, ...]

    def draw(self, num_rows: int, generator: Generator) -> "Plan":
        """Draw for each row, step by step."""
        return Plan(self.steps, [step.draw(num_rows, generator) for step in self.steps])


@dataclass(frozen=True, eq=False)
class Plan:
    """What is done to each row; `drawn` holds a tensor for each step, rows first."""

    steps: tuple[Step, ...]
    drawn: Sequence[Tensor]

    def to(self, device: torch.device) -> "Plan":
        """The same plan on `device`."""
        return Plan(self.steps, [drawn.to(device) for drawn in self.drawn])

    def __getitem__(self, rows: Tensor) -> "Plan":
        """The plan of these rows."""
        return Plan(self.steps, [drawn[rows] for drawn in self.drawn])

    def apply(self, pixels_nchw: Tensor) -> Tensor:
        """The batch, changed; a new tensor of the same shape and type."""
        for step, drawn in zip(self.steps, self.drawn, strict=True):
            pixels_nchw = step.apply(pixels_nchw, drawn)
        return pixels_nchw
