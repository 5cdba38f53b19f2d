"""Random pictures, for benchmarks and tests: as many, as large and of as many classes as wanted.

In: `3x32x32x10` (channels, height, width, classes), `rows` and `seed`.  Out: a `Split`; equal settings give
equal bytes.

    picture = pattern[class] + noise          levels 0 … 191 and 0 … 63

A class is a pattern of 4 × 4 fields in each channel, so a net can learn all of it; noise is drawn for every
pixel of every picture.  Held out are `rows` / 4 more pictures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from training.data.divide import split_as_given
from training.data.split import Split
from training.errors import DataError

DEFAULT_SIZE = "3x32x32x10"
NUM_FIELDS = 4
NOISE = 64
CHUNK_LEVELS = 1 << 24


@dataclass(frozen=True, kw_only=True)
class SyntheticSettings:
    """`rows` is the size of the train half."""

    rows: int = 8000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1 or not 0 <= self.seed < 2**63:
            raise DataError(f"synthetic data needs rows ≥ 1 and a seed in 0 .. 2⁶³−1, got {self}")


def load_synthetic(size: str, settings: SyntheticSettings) -> Split:
    """Make both halves; classes follow each other, 0, 1, 2 … 0, 1, 2 …"""
    channels, height, width, num_classes = _parse(size or DEFAULT_SIZE)
    num_held_out = max(settings.rows // 4, num_classes)
    if settings.rows < num_classes:
        raise DataError(f"synthetic data of {num_classes} classes needs as many rows, got {settings.rows}")
    chance = np.random.PCG64(settings.seed)
    levels = _draw_levels((num_classes, channels, NUM_FIELDS, NUM_FIELDS), chance)
    fields = (levels.to(torch.int16) * (256 - NOISE) // 256).to(torch.uint8)
    train, held_out = (_draw(fields, rows, height, width, chance) for rows in (settings.rows, num_held_out))
    return split_as_given(
        f"synthetic:{size or DEFAULT_SIZE}",
        train,
        held_out,
        label_names=[str(label) for label in range(num_classes)],
    )


def _parse(size: str) -> tuple[int, int, int, int]:
    words = size.split("x")
    numbers = [int(word) for word in words if word.isascii() and word.isdigit()]
    if len(numbers) == len(words) == 4:
        channels, height, width, num_classes = numbers
        if channels in (1, 3) and min(height, width) >= 1 and num_classes >= 2:
            return channels, height, width, num_classes
    raise DataError(
        f"synthetic data is CHANNELSxHEIGHTxWIDTHxCLASSES, such as {DEFAULT_SIZE}, with 1 or 3 channels and "
        f"at least 2 classes, got {size!r}"
    )


def _draw(
    fields: Tensor, num_rows: int, height: int, width: int, chance: np.random.PCG64
) -> tuple[Tensor, Tensor]:
    """Pictures and labels of one half; `fields` is (classes, C, NUM_FIELDS, NUM_FIELDS)."""
    num_classes, channels = fields.shape[:2]
    labels = torch.arange(num_rows) % num_classes
    y, x = (torch.arange(size) * NUM_FIELDS // size for size in (height, width))
    pixels = torch.empty(num_rows, channels, height, width, dtype=torch.uint8)
    for rows in torch.split(torch.arange(num_rows), max(CHUNK_LEVELS // pixels[0].numel(), 1)):
        noise = _draw_levels((len(rows), channels, height, width), chance) & (NOISE - 1)
        pixels[rows] = noise.add_(fields[labels[rows]][:, :, y[:, None], x])
    return pixels, labels


def _draw_levels(shape: Sequence[int], chance: np.random.PCG64) -> Tensor:
    """Levels 0 … 255. The bare bits: numpy promises that their stream stays, and nothing is faster."""
    size = math.prod(shape)
    bits = chance.random_raw(-(-size // 8)).astype("<u8", copy=False).view(np.uint8)
    return torch.from_numpy(bits[:size]).view(*shape)
