"""The train half in two: what trials train on, and what they are judged on.

In: a `Split`.  Out: another one, of its train half alone: the held-out half stays unseen in the search.
"""

from dataclasses import replace

import torch
from torch import Tensor

from training.data import Pixels, Split
from training.loop.chance import seeded_generator

JUDGED_SHARE = 0.2


def divide(split: Split) -> Split:
    """Four fifths and one fifth, the same ones for every search; mean and std stay those of the whole."""
    num_rows = len(split.train_labels)
    order = torch.randperm(num_rows, generator=seeded_generator(0, "search rows"))
    judged, trained = torch.split(
        order, [round(JUDGED_SHARE * num_rows), num_rows - round(JUDGED_SHARE * num_rows)]
    )
    return replace(
        split,
        train_pixels=take(split.train_pixels, trained),
        train_labels=split.train_labels[trained],
        held_out_pixels=take(split.train_pixels, judged),
        held_out_labels=split.train_labels[judged],
    )


def take(pixels: Pixels, rows: Tensor) -> Pixels:
    """Some of the pictures, where they are: in memory or on the disk."""
    return pixels[rows] if isinstance(pixels, Tensor) else pixels.take(rows)
