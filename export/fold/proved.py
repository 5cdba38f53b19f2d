"""Fold, prove, and fold less where the proof fails.

In: an unfolded graph, what may be paid, and how to prove.  Out: the first folded graph that is proved.

The limit on what a fold may add to the rounding is an estimate from each BatchNorm's own statistics.  What
counts is the measured parity.  Where it fails, those of the BatchNorms whose folds shift tensors that cost
the most are taken back: one, then two more, four more …, so that few go and few proofs are needed.  If none
is left, no tensor is shifted at all: what still folds only scales.

Chains that act as BatchNorms are all taken back first, so that no BatchNorm stays for their sake.  If
BatchNorms were the cause as well, the chains are tried once more without those.
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import onnx_ir as ir

from export.errors import ParityError
from export.fold.account import account
from export.fold.batchnorm import HALF_ULP
from export.fold.gauges.cost import LARGEST_CONDITION
from export.fold.gauges.system import FREE, Price
from export.fold.per_channel import fold_per_channel
from export.fold.pixels import fold_pixels, taking_pixels
from export.fold.stages import fold
from service.contract.account import FoldAccount, FoldSite

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
) -> tuple[ir.Model, FoldAccount, Proof]:
    """Fold, and take back what costs the most until `prove` raises no ParityError.

    Returns the folded graph, what became of each BatchNorm, and what `prove` returned.  Raises the last
    attempt's ParityError if none is within its tolerance.
    """
    chains: dict[str, str] = {}
    kept: dict[str, str] = {}
    limit, number = LARGEST_CONDITION, 1
    while True:
        folded, done = fold_once(model, options, limit, {**chains, **kept})
        try:
            proved = folded, done, prove(folded)
            break
        except ParityError as error:
            if limit == 0:
                raise
            why = f"it would cost accuracy, as measured: {error}"
            if more := {site.name: why for site in done.per_channel if site.status != "declined"}:
                chains |= more
                continue
            costly = sorted(
                (site for site in done.sites if _bound(site) > HALF_ULP), key=_bound, reverse=True
            )
            kept |= {site.name: why for site in costly[:number]}
            number *= 2
            if not costly:
                limit = 0.0
    if chains and (kept or limit == 0):
        folded, done = fold_once(model, options, limit, kept)
        with contextlib.suppress(ParityError):
            return folded, done, prove(folded)
    return proved


def fold_once(
    model: ir.Model,
    options: FoldOptions,
    limit: float = LARGEST_CONDITION,
    kept: Mapping[str, str] = MappingProxyType({}),
) -> tuple[ir.Model, FoldAccount]:
    """Fold BatchNorms, then chains that act as such; what is `kept`, by name, stays for that reason."""
    if options.pixels is None:
        folded, sites = fold(model, options.prices, limit, kept)
    else:
        folded, sites = fold_pixels(model, options.prices, *options.pixels, limit, kept)
    folded, sites, chains = fold_per_channel(model, folded, sites, options.prices, limit, kept)
    return folded, account(sites, chains)


def _bound(site: FoldSite) -> float:
    return site.error_bound or 0.0
