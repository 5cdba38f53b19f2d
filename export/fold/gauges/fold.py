"""Fold BatchNorms wherever the graph around them can take their scale and shift.

In: a graph in which no BatchNorm stands right after a linear op any more, and what remains.
Out: the same graph, changed in place, and what became of each.

A tensor may be stored as a · (v + b).  Each op absorbs such gauges or ties them; a BatchNorm is gone where
the gauges before and after it differ by just its scale and shift.  So the question which BatchNorms can go
is the question which of their equations can hold together: see `system` (the equations), `rules` (what each
op asks for), `solve`.
"""

from collections.abc import Mapping
from types import MappingProxyType

import onnx_ir as ir

from export.fold.batchnorm import BatchNorm
from export.fold.gauges.absorb import CannotWriteError
from export.fold.gauges.choices import worth_turning
from export.fold.gauges.dead import dead_readers, silence
from export.fold.gauges.hints import flags_that_fold
from export.fold.gauges.places import reach, where
from export.fold.gauges.plan import Fates, Plan, attempt
from export.fold.gauges.rules import RULES
from export.fold.gauges.system import Price, Solution
from export.graph.edit import constant, onnx_op, replace_by_input
from export.graph.moments import know, moments_of


def fold_gauges(
    graph: ir.Graph,
    norms: Mapping[ir.Node, BatchNorm],
    prices: frozenset[Price],
    limit: float,
    kept: Mapping[str, str] = MappingProxyType({}),
) -> Fates:
    """Fold what can go, in place; raises CannotWriteError, and then the graph is broken: give it a copy.

    Args:
        limit: how many times a BatchNorm's own rounding its fold may add (see `condition`).
        kept: BatchNorms that stay, by name, with the reason.
    """
    best = attempt(graph, norms, prices, limit, kept, frozenset())
    left = {node: norms[node] for node in best.plan.reasons}
    if turned := worth_turning(graph, left, best.system, prices):
        other = attempt(graph, norms, prices, limit, kept, turned)
        best = max(best, other, key=lambda one: len(one.plan.gone))
    fates, plan = best.fates, best.plan
    flags = flags_that_fold(best.system, best.candidates, plan.reasons, prices)
    for node, reason in plan.reasons.items():
        hint = f"; {flags[node]} would fold it" if node in flags else ""
        fates[node] = norms[node].declined(reason + hint)
    fates |= _write(graph, plan, norms, best.times)
    return fates


def _write(
    graph: ir.Graph, plan: Plan, norms: Mapping[ir.Node, BatchNorm], times: Mapping[ir.Node, float]
) -> Fates:
    """Write the gauges into every op that they touch, and take out the BatchNorms that go."""
    going, solution = set(plan.gone), plan.solution
    touched = []
    for node in graph:
        rule = RULES.get(onnx_op(node) or "")
        values = [value for value in (*node.inputs, *node.outputs) if value is not None]
        if rule and rule.absorb and node not in going and not all(map(solution.is_plain, values)):
            touched.append((node, rule.absorb))
    paid = {equation.node: equation.price for equation in plan.bought if equation.node and equation.price}
    written = {node for node, _ in touched if any(constant(value) is not None for value in node.inputs)}
    places = {node: where(node, written, paid, solution.left) for node in plan.gone}
    _store_moments(graph, solution)
    for node in plan.gone:
        if (norms[node].scale == 0).any() and (readers := dead_readers(node, norms[node])):
            silence(readers)
    for node, absorb in touched:
        try:
            absorb(node, solution)
        except CannotWriteError as error:
            # Only what goes into this op's weights is the cause: the others can still go without it.
            error.causes = [norms[one].name for one in plan.gone if node in reach(one, solution.left)]
            raise
    fates: Fates = {}
    for node, (how, prices) in places.items():
        decide = norms[node].reduced if Price.BIAS in prices else norms[node].folded
        fates[node] = decide(how, times[node])
        replace_by_input(node, graph)
    return fates


def _store_moments(graph: ir.Graph, solution: Solution) -> None:
    """What is known of each tensor holds of the net's numbers: here it becomes that of the stored ones."""
    for node in graph:
        for value in node.outputs:
            moments = moments_of(value)
            if moments is not None and not solution.is_plain(value):
                ids = solution.system.of(value)
                shift = solution.b[ids] + solution.left.get(value, 0.0)
                know(value, moments.stored(solution.a[ids], shift))
