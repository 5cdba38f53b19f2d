"""Say in words which equations keep a BatchNorm in its place.

In: its own equation, the channels where it cannot hold, and what is settled.  Out: a sentence.

The settled equations are edges between ids.  What contradicts lies on the way from the BatchNorm's input to
its output: the shortest way names the ops.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.fold.gauges.system import FIXED, Equation

_WHAT = {
    "sign": "the sign of γ cannot move on",
    "magnitude": "its scale cannot move on",
    "offset": "its shift cannot move on",
}
MOST = 3


def blame(kind: str, equation: Equation, wrong: np.ndarray, settled: Sequence[Equation]) -> str:
    """The reason of one refusal; `wrong` are its channels."""
    channels = f"in {int(wrong.sum())} of {wrong.size} channels"
    (first, second) = equation.pairs(kind)[0]
    row = int(np.argmax(wrong))
    says = _way(kind, int(first[row]), int(second[row]), settled)
    if first[row] == FIXED:
        says.insert(0, _before(equation.node))
    return f"{_WHAT[kind]} {channels}: {'; '.join(says) or 'both sides are settled'}"


def _before(node: ir.Node | None) -> str:
    """Why the input of a BatchNorm is what it is."""
    source = node.inputs[0] if node is not None else None
    producer = source.producer() if source is not None else None
    if producer is None:
        return "it reads the graph's input"
    return f"{producer.op_type} '{producer.name}' gives values as they are"


def _way(kind: str, start: int, goal: int, settled: Sequence[Equation]) -> list[str]:
    """What the equations say on the shortest way between two ids, those at a fixed end first."""
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
    return list(says)[:MOST]


def shortest_way(first: np.ndarray, second: np.ndarray, start: int, goal: int) -> list[int]:
    """The edges on a shortest way, breadth first; empty if there is none."""
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
