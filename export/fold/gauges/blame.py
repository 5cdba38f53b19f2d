"""Say in words which equations keep a BatchNorm in its place.

In: its own equation, the channels where it cannot hold, and the settled equations.  Out: a sentence.

The settled equations are edges between ids, one for each channel.  A BatchNorm's equation contradicts them
only if they already connect its input to its output, or one of these to what is fixed (id 0): so the
shortest path between the two names few ops, and those that matter.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.fold.gauges.system import FIXED, Equation

_WHAT = {
    "sign": "the sign of γ cannot be absorbed",
    "magnitude": "its scale cannot be absorbed",
    "offset": "its shift cannot be absorbed",
}
MAX_NAMED = 3


def blame(kind: str, equation: Equation, wrong: np.ndarray, settled: Sequence[Equation]) -> str:
    """The reason why an equation cannot hold.

    Args:
        kind: "sign", "magnitude" or "offset", what of it cannot hold.
        wrong: in which channels, booleans of shape (C,).
        settled: the equations that it contradicts.
    """
    channels = f"in {int(wrong.sum())} of {wrong.size} channels"
    (first, second) = equation.pairs(kind)[0]  # of a BatchNorm: the ids of its input and of its output
    row = int(np.argmax(wrong))
    says = _way(kind, int(first[row]), int(second[row]), settled)
    if not says:  # nothing fixes either side: its channels contradict each other, where ops tie them together
        others = (other for other in range(wrong.size) if first[other] != first[row])
        says = next(
            (way for other in others if (way := _way(kind, int(first[row]), int(first[other]), settled))), []
        )
    if first[row] == FIXED:
        says.insert(0, _before(equation.node))
    return f"{_WHAT[kind]} {channels}: {'; '.join(says) or 'other BatchNorms fix the scales on both sides'}"


def _before(node: ir.Node | None) -> str:
    """Why the input of a BatchNorm cannot change."""
    source = node.inputs[0] if node is not None else None
    producer = source.producer() if source is not None else None
    if producer is None:
        return "it reads the graph's input, which must stay the same"
    if node is not None and producer.graph is not node.graph:
        return f"{producer.op_type} '{producer.name}' before it belongs to the graph around its own"
    return f"{producer.op_type} '{producer.name}' cannot absorb a scale or shift"


def _way(kind: str, start: int, goal: int, settled: Sequence[Equation]) -> list[str]:
    """What the equations say on the shortest path between two ids, at most 3 of them.

    An op that fixes its input comes first: it is the cause.  Ops in the middle that only pass a scale on
    are left out where there is a cause, or another BatchNorm, to name.
    """
    pairs = [(index, pair) for index, equation in enumerate(settled) for pair in equation.pairs(kind)]
    if not pairs:
        return []
    first = np.concatenate([pair[0] for _, pair in pairs])
    second = np.concatenate([pair[1] for _, pair in pairs])
    owner = np.concatenate([np.full(pair[0].size, index) for index, pair in pairs])
    edges = shortest_way(first, second, start, goal)
    at_fixed = [edge for edge in edges if FIXED in (first[edge], second[edge])]
    norms = [
        edge for edge in edges if settled[owner[edge]].magnitude is not None and settled[owner[edge]].node
    ]
    says = dict.fromkeys(settled[owner[edge]].says for edge in (at_fixed + norms or edges))
    return list(says)[:MAX_NAMED]


def shortest_way(first: np.ndarray, second: np.ndarray, start: int, goal: int) -> list[int]:
    """The indices of the edges (first[i], second[i]) on a shortest path; empty if there is none.

    Breadth first, a whole frontier at a time: there are as many edges as channels in the net.
    """
    size = max(int(first.max()), int(second.max()), start, goal) + 1
    came_by = np.full(size, -1)
    reached = np.zeros(size, dtype=bool)
    reached[start] = True
    while not reached[goal]:
        before = int(reached.sum())
        known = reached.copy()
        for here, there in ((first, second), (second, first)):
            edges = np.flatnonzero(known[here] & ~known[there])
            came_by[there[edges]] = edges
            reached[there[edges]] = True
        if int(reached.sum()) == before:
            return []
    way: list[int] = []
    while goal != start:
        edge = int(came_by[goal])
        way.append(edge)
        goal = int(first[edge]) if int(second[edge]) == goal else int(second[edge])
    return way
