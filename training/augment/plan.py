"""Chance drawn beforehand, for a whole epoch; applying it is a pure function of the batch and its rows.

In: steps and a generator.  Out: a `Plan`, which is indexed by rows like the pictures themselves.

    plan = augmentation.draw(num_rows, generator)        on the CPU, so every device sees the same pictures
    pixels = plan[rows].apply(pixels)                    on the device; any process takes its rows of one draw
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from training.augment.mix import Mixing, mix_labels


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
    """Steps, applied one after the other, then the batch mixed; neither is needed."""

    steps: tuple[Step, ...]
    mixing: Mixing | None = None

    def draw(self, num_rows: int, generator: Generator) -> "Plan":
        """Draw for each row, step by step."""
        drawn = [step.draw(num_rows, generator) for step in self.steps]
        mixed = self.mixing.draw(num_rows, generator) if self.mixing else None
        return Plan(self.steps, drawn, self.mixing, mixed)


@dataclass(frozen=True, eq=False)
class Plan:
    """What is done to each row; `drawn` holds a tensor for each step, rows first, `mixed` the mixing's."""

    steps: tuple[Step, ...]
    drawn: Sequence[Tensor]
    mixing: Mixing | None = None
    mixed: Tensor | None = None

    def to(self, device: torch.device) -> "Plan":
        """The same plan on `device`."""
        return self._map(lambda drawn: drawn.to(device))

    def __getitem__(self, rows: Tensor) -> "Plan":
        """The plan of these rows."""
        return self._map(lambda drawn: drawn[rows])

    def apply(self, pixels_nchw: Tensor) -> Tensor:
        """The batch, each picture changed by itself; a new tensor of the same shape and type."""
        for step, drawn in zip(self.steps, self.drawn, strict=True):
            pixels_nchw = step.apply(pixels_nchw, drawn)
        return pixels_nchw

    def mix(self, pixels_nchw: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        """Pictures and labels (N,), mixed within the batch: then the targets are (N, K)."""
        if self.mixing is None or self.mixed is None:
            return pixels_nchw, labels
        return self.mixing.apply(pixels_nchw, self.mixed), mix_labels(labels, self.mixed, num_classes)

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Plan":
        mixed = None if self.mixed is None else change(self.mixed)
        return Plan(self.steps, [change(drawn) for drawn in self.drawn], self.mixing, mixed)
