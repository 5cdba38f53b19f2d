"""The rows of a study: a subset of a data set, normalised once.

In: a data set's name and the number of train rows.  Out: tensors on the CPU.

Which pictures they are depends on the data set alone: neither on a seed nor on what was loaded before.
"""

import functools
import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data import DataFacts, Split, load_split, normalize
from training.loop.chance import seeded_generator
from training.settings.config import ConfigError

HELD_OUT_PER_TRAIN = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Rows (N, C, H, W) float32 and labels (N,) int64, in an order that is mixed already."""

    facts: DataFacts
    train_x: Tensor
    train_y: Tensor
    held_out_x: Tensor
    held_out_y: Tensor

    @property
    def num_classes(self) -> int:
        """How many there are to choose from."""
        return len(self.facts.labels)

    def digest(self) -> str:
        """Of every value: a cell that was measured on other pictures is not this study's."""
        digest = hashlib.blake2b(digest_size=16)
        for tensor in (self.train_x, self.train_y, self.held_out_x, self.held_out_y):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


@functools.cache
def load_rows(data: str, num_rows: int) -> Rows:
    """`num_rows` train rows and a quarter as many held out, or all there are of these."""
    split = _load_once(data)
    if num_rows > (there := len(split.train_labels)):
        raise ConfigError(f"rows must be at most {there}, the train half of {data}, got {num_rows}")
    train = _draw(there, num_rows, "study train rows")
    held_out = _draw(len(split.held_out_labels), num_rows // HELD_OUT_PER_TRAIN, "study held-out rows")
    return Rows(
        facts=split.facts,
        train_x=normalize(split.train_pixels[train], split.facts),
        train_y=split.train_labels[train],
        held_out_x=normalize(split.held_out_pixels[held_out], split.facts),
        held_out_y=split.held_out_labels[held_out],
    )


def count_train_rows(data: str) -> int:
    """All that there are."""
    return len(_load_once(data).train_labels)


@functools.cache
def _load_once(data: str) -> Split:
    return load_split(data)


def _draw(there: int, wanted: int, stream: str) -> Tensor:
    return torch.randperm(there, generator=seeded_generator(0, stream))[:wanted]
