"""Fold every BatchNorm that can go, in the order of the stages, and account for every one.

In: an ir.Model.  Out: a new ir.Model that computes the same, and one `FoldSite` for each BatchNorm found.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import onnx_ir as ir

from export.fold.batchnorm import BatchNorm, read_batchnorm
from export.fold.gauges.absorb import CannotWriteError
from export.fold.gauges.cost import LARGEST_CONDITION
from export.fold.gauges.fold import fold_gauges
from export.fold.gauges.system import FREE, Price
from export.fold.neutral import drop_neutral, plain_names, plain_parameters
from export.fold.parallel import merge_parallel
from export.fold.stacked import sum_directly
from export.fold.summed import merge_summed
from export.fold.usual import fold_usual
from export.graph.edit import batchnorms
from export.graph.prepare import tidy
from service.contract.account import FoldSite


def fold(
    model: ir.Model,
    prices: frozenset[Price] = FREE,
    limit: float = LARGEST_CONDITION,
    kept: Mapping[str, str] = MappingProxyType({}),
) -> tuple[ir.Model, list[FoldSite]]:
    """Fold a prepared graph (see `export.graph.prepare`); the given model stays as it is.

    First BatchNorms of one tensor that are summed become one; then the usual fold into the linear op right
    before; then parallel branches become one; then the rest is solved for together (`export.fold.gauges`).

    Args:
        prices: what may be paid, and no other price.
        limit: how many times a BatchNorm's own rounding its fold may add.
        kept: BatchNorms that are not to be solved for, by name, with the reason.
    """
    model = model.clone()
    for graph in model.graphs():
        sum_directly(graph)
        drop_neutral(graph)
        plain_names(graph)
        plain_parameters(graph)
    found = {node: read_batchnorm(node) for node in batchnorms(model)}
    norms = {node: norm for node, norm in found.items() if isinstance(norm, BatchNorm)}
    fates = {node: site for node, site in found.items() if isinstance(site, FoldSite)}
    refusals: dict[ir.Node, str] = {}
    for graph in model.graphs():  # branches of If and bodies of Loop and Scan, each on its own
        fates |= merge_summed(graph, norms)
        refusals |= fold_usual(graph, norms, fates)
        fates |= merge_parallel(graph)
        refusals |= fold_usual(graph, norms, fates)  # a merged Conv may stand right before a BatchNorm
    if left := {node: norm for node, norm in norms.items() if node not in fates}:
        model, solved = _fold_gauges(model, left, prices, limit, kept)
        fates |= {node: _explain(solved[node], refusals.get(node)) for node in left}
    return tidy(model), [fates[node] for node in found]


def _fold_gauges(
    model: ir.Model,
    norms: Mapping[ir.Node, BatchNorm],
    prices: frozenset[Price],
    limit: float,
    kept: Mapping[str, str],
) -> tuple[ir.Model, dict[ir.Node, FoldSite]]:
    """On a copy, so that weights that cannot be written leave the model as it is.

    Where an op's weights would overflow, the BatchNorms that go there are kept, and the others tried again.
    """
    while True:
        copy = model.clone()
        twins = dict(zip(_nodes(model), _nodes(copy), strict=True))
        known = {twins[node]: norm for node, norm in norms.items()}
        fates: dict[ir.Node, FoldSite] = {}
        try:
            for graph in copy.graphs():
                own = {node: norm for node, norm in known.items() if node.graph is graph}
                if own:
                    fates |= fold_gauges(graph, own, prices, limit, kept)
            return copy, {node: fates[twins[node]] for node in norms}
        except CannotWriteError as error:
            causes = [name for name in error.causes if name not in kept]
            if not causes:
                return model, {node: norm.declined(str(error)) for node, norm in norms.items()}
            kept = {**kept, **dict.fromkeys(causes, str(error))}


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    for graph in model.graphs():
        yield from graph


def _explain(fate: FoldSite, refusal: str | None) -> FoldSite:
    """What the linear op right before said comes first in the reason, once."""
    if fate.reason is None or refusal is None or refusal in fate.reason:
        return fate
    return fate.model_copy(update={"reason": f"{refusal}; {fate.reason}"})
