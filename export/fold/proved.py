"""Fold, prove, and fold less where the proof fails.

In: an unfolded graph, what may be paid, and how to prove.  Out: the first folded graph that is proved.

The limit on what a fold may add to the rounding is an estimate from each BatchNorm's own statistics.  What
counts is the measured parity: where it fails, the limit is lowered, so that folds that shift tensors are
taken back, the costly ones first.  At a limit of 0 no tensor is shifted any more, and what is left only
scales.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import onnx_ir as ir

from export.errors import ParityError
from export.fold.gauges.cost import LARGEST_CONDITION
from export.fold.gauges.system import FREE, Price
from export.fold.pixels import fold_pixels, taking_pixels
from export.fold.stages import fold
from service.contract.manifest import FoldSite

# From what is estimated to stay within the tolerance, over half as much and no more, to no shift at all.
LIMITS = (LARGEST_CONDITION, 1.0, 0.0)

Proof = TypeVar("Proof")


@dataclass(frozen=True, kw_only=True)
class FoldOptions:
    """What may be paid; and mean and std of the pixels, if the graph is to take them as uint8."""

    prices: frozenset[Price] = FREE
    pixels: tuple[Sequence[float], Sequence[float]] | None = None


def reference_of(model: ir.Model, options: FoldOptions) -> ir.Model:
    """The unfolded graph with the inputs of the folded one."""
    return model if options.pixels is None else taking_pixels(model, *options.pixels)


def fold_proved(
    model: ir.Model, options: FoldOptions, prove: Callable[[ir.Model], Proof]
) -> tuple[ir.Model, list[FoldSite], Proof]:
    """Fold at each limit in turn until `prove` raises no ParityError.

    Returns the folded graph, what became of each BatchNorm, and what `prove` returned.  Raises the last
    attempt's ParityError if none is within its tolerance.
    """
    for limit in LIMITS:
        if options.pixels is None:
            folded, sites = fold(model, options.prices, limit)
        else:
            folded, sites = fold_pixels(model, options.prices, *options.pixels, limit)
        try:
            return folded, sites, prove(folded)
        except ParityError as error:
            last = error
    raise last
