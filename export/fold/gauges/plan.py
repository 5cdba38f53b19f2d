"""Who goes, at what price: one plan for all BatchNorms of a graph, of which none costs too much.

In: a graph, and the BatchNorms that remain.  Out: an `Attempt`; nothing is written.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from export.fold.batchnorm import BatchNorm
from export.fold.decomposed import is_decomposed
from export.fold.gauges.build import build
from export.fold.gauges.cost import amplification, condition, cost_at, sides_of
from export.fold.gauges.dead import dead_readers
from export.fold.gauges.rules import LINEAR
from export.fold.gauges.rules.batchnorm import gone, unshifted
from export.fold.gauges.solve import Settled
from export.fold.gauges.system import Equation, Price, Solution, System
from export.graph.edit import onnx_op
from service.contract.account import FoldSite

Fates = dict[ir.Node, FoldSite]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Who goes, who stays and why, with which gauges, and what is paid."""

    gone: list[ir.Node]
    reasons: dict[ir.Node, str]
    bought: list[Equation]
    solution: Solution


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """A plan, what each BatchNorm of it costs, and what is known of those that no plan may take."""

    system: System
    candidates: dict[ir.Node, Equation]
    plan: Plan
    times: dict[ir.Node, float]
    fates: Fates


def attempt(
    graph: ir.Graph,
    norms: Mapping[ir.Node, BatchNorm],
    prices: frozenset[Price],
    limit: float,
    kept: Mapping[str, str],
    own: frozenset[ir.Node],
) -> Attempt:
    """What would go; nothing is written."""
    system = build(graph, own)
    fates, candidates = _candidates(norms, system, kept)
    amplified = amplification(graph, norms, system)
    plan, times, costly = _affordable(system, candidates, prices, norms, amplified, limit)
    return Attempt(system=system, candidates=candidates, plan=plan, times=times, fates=fates | costly)


def _candidates(
    norms: Mapping[ir.Node, BatchNorm], system: System, kept: Mapping[str, str]
) -> tuple[Fates, dict[ir.Node, Equation]]:
    """What each BatchNorm asks for if it goes; and those for which that is known not to hold."""
    fates: Fates = {}
    candidates = {}
    for node, norm in norms.items():
        dead = int((norm.scale == 0).sum())
        if dead == norm.scale.size or (dead and dead_readers(node, norm) is None):
            reason = f"γ = 0 in {dead} of {norm.scale.size} channels, and no linear op right before it"
            fates[node] = norm.declined(f"{reason}, nor are they read by unpadded ones alone")
        elif norm.name in kept:
            fates[node] = norm.declined(kept[norm.name])
        elif system.of(node.outputs[0]).any():
            candidates[node] = gone(node, norm, system)
        else:
            fates[node] = norm.declined(_unknown_input(node))
    return fates, candidates


def _unknown_input(node: ir.Node) -> str:
    """Why nothing is known of what a BatchNorm reads."""
    unknown = "the shape of its input, or the axis of its channels, is unknown"
    source = node.inputs[0]
    while source is not None and source.shape is None and (before := source.producer()) is not None:
        if onnx_op(before) is None:
            return (
                f"{unknown}: {before.op_type} '{before.name}' of {before.domain} before it is not understood"
                f"; where the file states the shape of '{source.name}' (value_info), more is known"
            )
        source = before.inputs[0] if before.inputs else None
    return unknown


def _affordable(
    system: System,
    candidates: dict[ir.Node, Equation],
    prices: frozenset[Price],
    norms: Mapping[ir.Node, BatchNorm],
    amplified: np.ndarray,
    limit: float,
) -> tuple[Plan, dict[ir.Node, float], Fates]:
    """A plan in which no BatchNorm costs more than `limit`, what each costs, and those that would."""
    fates: Fates = {}
    eased: dict[ir.Node, Equation] = {}
    alone: dict[ir.Node, float] | None = None
    while True:
        plan = _plan(system, candidates, prices, eased)
        times = {node: condition(node, norms[node], plan.solution, amplified) for node in plan.gone}
        too_much = {node: cost for node, cost in times.items() if cost > limit}
        if not too_much:
            return plan, times, fates
        if alone is None:
            # Of many that read one tensor, one goes at a time: each would cost a plan of its own, or two.
            alone = _costly_alone(system, candidates, prices, norms, amplified, limit)
            for node, cost in alone.items():
                fates[node] = norms[node].declined(_costs(cost))
                del candidates[node]
            if alone:
                continue
        # First with no offset on the side where it costs, which may move to the other side; then not at all.
        for node in _worst_quarter(too_much):
            if node not in eased:
                side = max(
                    sides_of(node),
                    key=lambda side: cost_at(side, norms[node], plan.solution.b, system, amplified),
                )
                eased[node] = unshifted(node, side, system)
                continue
            fates[node] = norms[node].declined(_costs(times[node]))
            del candidates[node]


def _costs(times: float) -> str:
    return f"it would cost accuracy: {times:.3g} times its rounding error is added"


def _costly_alone(
    system: System,
    candidates: Mapping[ir.Node, Equation],
    prices: frozenset[Price],
    norms: Mapping[ir.Node, BatchNorm],
    amplified: np.ndarray,
    limit: float,
) -> dict[ir.Node, float]:
    """Those that cost too much even if no other goes and all that may be paid is paid, and what they cost."""
    ops = Settled(system, candidates.values(), without=prices)
    costs = {}
    for node, equation in candidates.items():
        forced = ops.forced(equation)
        cost = max(cost_at(side, norms[node], forced, system, amplified) for side in sides_of(node))
        if cost > limit:
            costs[node] = cost
    return costs


def _plan(
    system: System,
    candidates: Mapping[ir.Node, Equation],
    prices: frozenset[Price],
    eased: Mapping[ir.Node, Equation],
) -> Plan:
    """First without paying, then the rest at a price, and of the price no more than is needed.

    `eased` are equations that are wished for: they are added last, and left out where they cannot hold.
    """
    settled = Settled(system, candidates.values())
    reasons = {node: why for node in _in_order(candidates) if (why := settled.add(candidates[node]))}
    refused = [node for node, wish in eased.items() if node not in reasons and settled.add(wish)]
    bought: list[Equation] = []
    if (reasons or refused) and any(equation.price in prices for equation in system.equations):
        relaxed = Settled(system, candidates.values(), without=prices)
        for node in (node for node in candidates if node not in reasons):
            assert relaxed.add(candidates[node]) is None, "what went for free goes at a price"
        still = {node: why for node in reasons if (why := relaxed.add(candidates[node]))}
        still_refused = [node for node, wish in eased.items() if node not in still and relaxed.add(wish)]
        if (len(still), len(still_refused)) < (len(reasons), len(refused)):
            bought = [equation for equation in relaxed.left_out if relaxed.add(equation)]
            settled, reasons = relaxed, still
    gone_nodes = [node for node in candidates if node not in reasons]
    paid = frozenset(equation.node for equation in bought if equation.node is not None)
    solution = replace(settled.solution(), paid=paid)
    return Plan(gone=gone_nodes, reasons=reasons, bought=bought, solution=solution)


def _in_order(candidates: Iterable[ir.Node]) -> list[ir.Node]:
    """Those next to a linear op first: what any other tool could fold is settled before what only we can."""

    def is_linear(node: ir.Node | None) -> bool:
        return node is not None and node.op_type in LINEAR

    def is_next_to_linear(node: ir.Node) -> bool:
        source = node.inputs[0]
        before = source.producer() if source is not None else None
        return is_linear(before) or any(map(is_linear, node.outputs[0].consumers()))

    # What is written as Mul and Add comes last: no BatchNorm stays for its sake.
    return sorted(candidates, key=lambda node: (is_decomposed(node), not is_next_to_linear(node)))


def _worst_quarter(costly: Mapping[ir.Node, float]) -> list[ir.Node]:
    """The worst quarter of those that cost too much: without them, the others may do."""
    worst_first = sorted(costly, key=lambda node: -costly[node])
    return worst_first[: -(-len(costly) // 4)]
