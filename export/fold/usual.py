"""Fold every BatchNorm that can go; account for every one.

In: an ir.Model.  Out: a new ir.Model that computes the same, and one `Site` for each BatchNorm found.
"""

from collections.abc import Callable, Mapping

import onnx_ir as ir

from export.fold.account import Outcome, Site, account
from export.fold.batchnorm import Affine, BatchNorm, Declined, Folded, read_batchnorm
from export.fold.flatten import flatten_first
from export.fold.gauges import FREE, LARGEST_CONDITION, fold_gauges
from export.fold.gauges.absorb import CannotWriteError
from export.fold.gauges.system import Price
from export.fold.linear.conv import fold_conv, fold_conv_transpose
from export.fold.linear.gemm import fold_add, fold_gemm, fold_matmul
from export.fold.linear.weights import shared
from export.fold.neutral import drop_neutral
from export.fold.parallel import merge_parallel
from export.graph import batchnorms, has_one_reader, onnx_op, replace_by_input, tidy

__all__ = ["FREE", "LARGEST_CONDITION", "Price", "Site", "account", "fold"]

Rewrite = Callable[[ir.Node, Affine], Folded | Declined]

REWRITES: dict[str, Rewrite] = {
    "Conv": fold_conv,
    "ConvTranspose": fold_conv_transpose,
    "Gemm": fold_gemm,
    "MatMul": fold_matmul,
    "Add": fold_add,
}


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
    refusals = _fold_backward(model.graph, norms, outcomes)
    outcomes |= merge_parallel(model.graph)
    refusals |= _fold_backward(model.graph, norms, outcomes)
    if left := {node: norm for node, norm in norms.items() if node not in outcomes}:
        model, solved = _fold_gauges(model, left, prices, limit)
        outcomes |= {node: _explain(solved[node], refusals.get(node)) for node in left}
    sites = [
        Site(name=node.name or "", outcome=outcomes[node], health=getattr(norm, "health", None))
        for node, norm in found.items()
    ]
    return tidy(model), sites


def _fold_backward(
    graph: ir.Graph, norms: Mapping[ir.Node, BatchNorm], outcomes: dict[ir.Node, Outcome]
) -> dict[ir.Node, str]:
    """The usual fold, into the linear op right before.  Notes what went; returns why linear ops refused."""
    refusals = {}
    for node, norm in norms.items():
        if node in outcomes:
            continue
        flatten_first(node, graph)
        source = node.inputs[0]
        before = source.producer() if source is not None else None
        rewrite = REWRITES.get(onnx_op(before) or "")
        if source is None or before is None or rewrite is None or not has_one_reader(source):
            continue
        cost = shared(before)
        outcome = rewrite(before, norm)
        if isinstance(outcome, Folded):
            replace_by_input(node, graph)
            outcomes[node] = Folded(how=f"{outcome.how} before it{cost}")
        elif before.op_type != "Add":
            refusals[node] = outcome.reason
    return refusals


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
