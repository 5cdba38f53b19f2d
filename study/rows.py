"""The rows of a study: a subset of a data set, normalised once.

In: a data set's name and the number of train rows.  Out: tensors on the CPU.

Which pictures they are depends on the data set alone: neither on a seed nor on what was loaded before.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from training.data import DataFacts, Split, load_split, normalize
from training.loop.chance import seeded_generator
from training.settings.config import ConfigError

HELD_OUT_PER_TRAIN = 1.5
MAX_SIDE = 16  # larger pictures are halved: a run takes a third of the time, so that claims get more seeds


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

    @property
    def guessing_loss(self) -> float:
        """The cross-entropy of a net that gives every class the same probability."""
        return math.log(self.num_classes)

    def digest(self) -> str:
        """Of every value: a cell that was measured on other pictures is not this study's."""
        digest = hashlib.blake2b(digest_size=16)
        for tensor in (self.train_x, self.train_y, self.held_out_x, self.held_out_y):
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


@functools.cache
def load_rows(data: str, num_rows: int) -> Rows:
    """`num_rows` train rows, and up to half as many again held out: of the train half too what is left.

    The more are held out, the less an accuracy depends on which they are, and the fewer seeds a claim needs.
    """
    split = _load_once(data)
    if num_rows > (there := len(split.train_labels)):
        raise ConfigError(f"rows must be at most {there}, the train half of {data}, got {num_rows}")
    mixed = _draw(there, "study train rows")
    held_out = _draw(len(split.held_out_labels), "study held-out rows")
    wanted = int(HELD_OUT_PER_TRAIN * num_rows)
    train, rest, held_out = mixed[:num_rows], mixed[num_rows:], held_out[:wanted]
    rest = rest[: wanted - len(held_out)]
    height, width = split.facts.input_shape[1:]
    shrink = nn.AvgPool2d(2 ** max(0, math.ceil(math.log2(max(height, width) / MAX_SIDE))))
    train_x = shrink(normalize(split.train_pixels[train], split.facts))
    return Rows(
        facts=replace(split.facts, input_shape=tuple(train_x.shape[1:])),
        train_x=train_x,
        train_y=split.train_labels[train],
        held_out_x=shrink(
            normalize(torch.cat([split.held_out_pixels[held_out], split.train_pixels[rest]]), split.facts)
        ),
        held_out_y=torch.cat([split.held_out_labels[held_out], split.train_labels[rest]]),
    )


def with_class_counts(rows: Rows, counts: Sequence[int], seed: int) -> tuple[Rows, list[int]]:
    """`counts[r]` train rows of the r-th class, and the classes in that order, which the seed draws."""
    ranks = torch.randperm(rows.num_classes, generator=seeded_generator(seed, "class ranks")).tolist()
    kept = torch.zeros(len(rows.train_y), dtype=torch.bool)
    for label, count in zip(ranks, counts, strict=True):
        kept[torch.nonzero(rows.train_y == label).flatten()[:count]] = True
    return replace(rows, train_x=rows.train_x[kept], train_y=rows.train_y[kept]), ranks


def count_train_rows(data: str) -> int:
    """All that there are."""
    return len(_load_once(data).train_labels)


@functools.cache
def _load_once(data: str) -> Split:
    return load_split(data)


def _draw(there: int, stream: str) -> Tensor:
    return torch.randperm(there, generator=seeded_generator(0, stream))
