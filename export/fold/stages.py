"""Fold every BatchNorm that can go, in the order of the stages, and account for every one.

In: an ir.Model.  Out: a new ir.Model that computes the same, and one `Site` for each BatchNorm found.
"""

from collections.abc import Mapping

import onnx_ir as ir

from export.fold.account import Outcome, Site
from export.fold.batchnorm import BatchNorm, Declined, read_batchnorm
from export.fold.gauges.absorb import CannotWriteError
from export.fold.gauges.cost import LARGEST_CONDITION
from export.fold.gauges.fold import fold_gauges
from export.fold.gauges.system import FREE, Price
from export.fold.neutral import drop_neutral
from export.fold.parallel import merge_parallel
from export.fold.usual import fold_usual
from export.graph.edit import batchnorms
from export.graph.prepare import tidy


def fold(
    model: ir.Model, prices: frozenset[Price] = FREE, limit: float = LARGEST_CONDITION
) -> tuple[ir.Model, list[Site]]:
    """Fold a prepared graph (see `export.graph.prepare`); the given model stays as it is.

    First the usual fold into the linear op right before; then parallel branches become one; then what is
    left is solved for together (`export.gauges`), at the given prices and no other.
    """
    model = model.clone()
    drop_neutral(model.graph)
    found = {node: read_batchnorm(node) for node in batchnorms(model)}
    norms = {node: norm for node, norm in found.items() if isinstance(norm, BatchNorm)}
    outcomes: dict[ir.Node, Outcome] = {
        node: norm for node, norm in found.items() if isinstance(norm, Declined)
    }
    for node in norms:
        if node.graph is not model.graph:
            outcomes[node] = Declined(reason="inside a subgraph (If, Loop, Scan): those are left alone")
    refusals = fold_usual(model.graph, norms, outcomes)
    outcomes |= merge_parallel(model.graph)
    refusals |= fold_usual(model.graph, norms, outcomes)
    if left := {node: norm for node, norm in norms.items() if node not in outcomes}:
        model, solved = _fold_gauges(model, left, prices, limit)
        outcomes |= {node: _explain(solved[node], refusals.get(node)) for node in left}
    sites = [
        Site(name=node.name or "", outcome=outcomes[node], health=getattr(norm, "health", None))
        for node, norm in found.items()
    ]
    return tidy(model), sites


def _fold_gauges(
    model: ir.Model, norms: Mapping[ir.Node, BatchNorm], prices: frozenset[Price], limit: float
) -> tuple[ir.Model, dict[ir.Node, Outcome]]:
    """On a copy, so that weights that cannot be written leave the model as it is."""
    copy = model.clone()
    twins = dict(zip(model.graph, copy.graph, strict=True))
    try:
        known = {twins[node]: norm for node, norm in norms.items()}
        outcomes = fold_gauges(copy.graph, known, prices, limit)
    except CannotWriteError as error:
        return model, {node: Declined(reason=str(error)) for node in norms}
    return copy, {node: outcomes[twins[node]] for node in norms}


def _explain(outcome: Outcome, refusal: str | None) -> Outcome:
    """What the linear op right before said comes first."""
    if isinstance(outcome, Declined) and refusal is not None:
        return Declined(reason=f"{refusal}; {outcome.reason}")
    return outcome
