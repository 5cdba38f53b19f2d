"""Fold, prove, and fold less where the proof fails.

In: an unfolded graph, what may be paid, and how to prove.  Out: the first folded graph that is proved.

The limit on what a fold may add to the rounding is an estimate from each BatchNorm's own statistics.  What
counts is the measured parity.  Where it fails, those of the BatchNorms whose folds shift tensors that cost
the most are taken back: one, then two more, four more …, so that few go and few proofs are needed.  If none
is left, no tensor is shifted at all: what still folds only scales.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import onnx_ir as ir

from export.errors import ParityError
from export.fold.batchnorm import HALF_ULP
from export.fold.gauges.cost import LARGEST_CONDITION
from export.fold.gauges.system import FREE, Price
from export.fold.pixels import fold_pixels, taking_pixels
from export.fold.stages import fold
from service.contract.manifest import FoldSite

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
    """Fold, and take back what costs the most until `prove` raises no ParityError.

    Returns the folded graph, what became of each BatchNorm, and what `prove` returned.  Raises the last
    attempt's ParityError if none is within its tolerance.
    """
    kept: dict[str, str] = {}
    limit, number = LARGEST_CONDITION, 1
    while True:
        folded, sites = _fold(model, options, limit, kept)
        try:
            return folded, sites, prove(folded)
        except ParityError as error:
            if limit == 0:
                raise
            costly = sorted((site for site in sites if _bound(site) > HALF_ULP), key=_bound, reverse=True)
            kept |= {site.name: f"it would cost accuracy, as measured: {error}" for site in costly[:number]}
            number *= 2
            if not costly:
                limit = 0.0


def _bound(site: FoldSite) -> float:
    return site.error_bound or 0.0


def _fold(
    model: ir.Model, options: FoldOptions, limit: float, kept: Mapping[str, str]
) -> tuple[ir.Model, list[FoldSite]]:
    if options.pixels is None:
        return fold(model, options.prices, limit, kept)
    return fold_pixels(model, options.prices, *options.pixels, limit, kept)
