"""Which rows come in which step.

In: a split, and the rows of each batch.  Out: rows for the net, in its own number format, and their labels.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from training.augment import Plan
from training.data import Split, normalize
from training.data.streamed import batches_ahead
from training.loop.chance import seeded_generator
from training.settings.config import ConfigError, FitConfig

REPORT_BATCHES = 16
# Of a train half that is small: where --batch-size is not given, an epoch has as many steps, but no batch of
# fewer rows, of which BatchNorm would estimate a poor variance.
MIN_STEPS, MIN_ROWS = 4, 16


def default_batch_size(num_rows: int) -> int:
    """FitConfig's own, or less where the train half has few rows; never more than it has."""
    return min(FitConfig.batch_size, max(num_rows // MIN_STEPS, MIN_ROWS), num_rows)


def count_steps(split: Split, config: FitConfig) -> int:
    """How many whole batches an epoch has, without the rows it skips; raises ConfigError if that is none.

    A last, smaller batch is left out: its few rows would give BatchNorm a poor variance.
    """
    # Rounded, because 1 − 0.8 of 50 rows is 10 and not 9.99…
    num_rows = int(round((1 - config.skip_easy) * len(split.train_labels), 6))
    if config.batch_size > num_rows:
        of = "to train on" if not config.skip_easy else f"of an epoch with skip_easy {config.skip_easy:g}"
        raise ConfigError(f"batch_size must be at most {num_rows}, the rows {of}, got {config.batch_size}")
    num_steps = num_rows // config.batch_size
    if (asked := config.recalibrate_bn) > num_steps:
        raise ConfigError(f"recalibrate_bn must be at most {num_steps}, the batches of an epoch, got {asked}")
    return num_steps


def read_batches(
    net: nn.Module, split: Split, batches: Sequence[Tensor], plan: Plan
) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented rows, in the net's own number format, and labels (n,) or mixed targets (n, K)."""
    dtype, num_classes = next(net.parameters()).dtype, len(split.facts.labels)
    for rows, pixels in zip(batches, batches_ahead(split.train_pixels, batches), strict=True):
        of_batch = plan[rows]
        pixels, targets = of_batch.mix(of_batch.apply(pixels), split.train_labels[rows], num_classes)
        yield normalize(pixels, split.facts).to(dtype), targets


def plain_batches(net: nn.Module, split: Split, config: FitConfig) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and labels of `recalibrate_bn` random train batches, or a few, not augmented; no row twice."""
    dtype = next(net.parameters()).dtype
    generator = seeded_generator(config.seed, "recalibrate")
    order = torch.randperm(len(split.train_labels), generator=generator).to(split.train_labels.device)
    num_batches = config.recalibrate_bn or min(REPORT_BATCHES, count_steps(split, config))
    batches = torch.split(order[: num_batches * config.batch_size], config.batch_size)
    for rows, pixels in zip(batches, batches_ahead(split.train_pixels, batches), strict=True):
        yield normalize(pixels, split.facts).to(dtype), split.train_labels[rows]


def first_row(net: nn.Module, split: Split) -> Tensor:
    """The first of the train half, not augmented, in the net's own number format."""
    pixels = split.train_pixels[torch.zeros(1, dtype=torch.int64)]
    return normalize(pixels, split.facts).to(next(net.parameters()).dtype)
