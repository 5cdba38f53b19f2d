"""Whether a batch is large enough for BatchNorm's statistics.

In: a net, the shape of a row, the rows that one device normalises by.  Out: a sentence, or nothing.

    n = rows × positions of what the BatchNorm reads            (N, C): 1, (N, C, L): L, (N, C, H, W): H·W

The variance of n independent normal values is known to a relative standard error of √(2 / (n − 1)): σ² times
a χ² of n − 1 degrees of freedom over n − 1. Positions of one picture are not independent, so a BatchNorm's is
larger. At n = 32 it is 25 %, which moves what it divides by, σ, by 13 % from batch to batch.
"""

import math
from typing import Any

import torch
from torch import nn

from service.contract.text import first_line
from training.batchnorm.statistics import find_batchnorms
from training.nets import NetError

SMALLEST_COUNT = 32


def count_positions(net: nn.Module, row_shape: tuple[int, ...]) -> dict[str, int]:
    """Pixels per row that each BatchNorm averages over, by its name; runs two rows through the net."""
    names = {module: name for name, module in net.named_modules()}
    positions: dict[str, int] = {}

    def listen(norm: nn.Module, arguments: tuple[Any, ...]) -> None:
        positions[names[norm]] = math.prod(arguments[0].shape[2:])

    handles = [norm.register_forward_pre_hook(listen) for norm in find_batchnorms(net)]
    was_training = net.training
    try:
        with torch.no_grad():
            net.eval()(torch.zeros(2, *row_shape))
    except RuntimeError as error:
        raise NetError(f"the net cannot take rows of {row_shape}: {first_line(error)}") from None
    finally:
        for handle in handles:
            handle.remove()
        net.train(was_training)
    return positions


def describe_small_batch(positions: dict[str, int], rows: int) -> str | None:
    """A warning if `rows` on a device are too few for some BatchNorm, else None."""
    counts = {name: rows * count for name, count in positions.items()}
    small = {name: count for name, count in counts.items() if count < SMALLEST_COUNT}
    if not small:
        return None
    name = min(small, key=lambda name: small[name])
    error = math.sqrt(2 / (small[name] - 1))
    enough = math.ceil(SMALLEST_COUNT / min(positions.values()))
    return (
        f"a batch of {rows} is small for {len(small)} of {len(counts)} BatchNorms: {name} estimates each "
        f"variance from {small[name]} values, to ±{error:.0%} at best; take {enough} rows or more, or "
        "--recalibrate-bn"
    )
