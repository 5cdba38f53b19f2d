"""Say in words which equations keep a BatchNorm in its place.

In: its own equation, the channels where it cannot hold, and the settled equations.  Out: a sentence.

The settled equations are edges between ids, one for each channel.  A BatchNorm's equation contradicts them
only if they already connect its input to its output, or one of these to what is fixed (id 0): so the
shortest path between the two names few ops, and those that matter.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.fold.gauges.rules import LINEAR, RULES
from export.fold.gauges.system import FIXED, Equation, Link, System, wall
from export.graph.edit import constant, onnx_op

_WHAT = {
    "sign": "the sign of γ cannot be absorbed",
    "magnitude": "its scale cannot be absorbed",
    "offset": "its shift cannot be absorbed",
}
_PASS_ON = RULES.keys() - LINEAR - {"Einsum", "BatchNormalization"}
MAX_NAMED = 3


def blame(
    kind: str, equation: Equation, wrong: np.ndarray, settled: Sequence[Equation], system: System
) -> str:
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
    if not says:  # nothing connects both sides of this channel
        says = _tied(kind, equation, row, settled) or _around(kind, equation, row, settled)
    if first[row] == FIXED:
        says.insert(0, _before(equation.node, system))
    return f"{_WHAT[kind]} {channels}: {'; '.join(says) or _others(settled)}"


def _tied(kind: str, equation: Equation, row: int, settled: Sequence[Equation]) -> list[str]:
    """Why its channels contradict each other: ops tie them together, before it, after it, or on both sides.

    The way then leads through the BatchNorm's other channels, which hold already.
    """
    (first, second) = equation.pairs(kind)[0]
    others = (first != first[row]) | (second != second[row])
    ones = np.ones(int(others.sum()))
    link = Link(first=first[others], second=second[others], factor=ones)
    sides = [(link.first, ones), (link.second, ones)]
    held = Equation(says="", magnitude=link, sign=link, offset=(sides, ones))
    found = _way(kind, int(first[row]), int(second[row]), [*settled, held])
    source = equation.node.inputs[0] if equation.node is not None else None
    producer = source.producer() if source is not None else None
    if producer is not None and first[row] != FIXED and int((first == first[row]).sum()) > 1:
        ties = [f"{producer.op_type} '{producer.name}' before it ties its channels together: one scale only"]
    else:
        unlike = np.unique(first[first != first[row]]).tolist()
        ways = (_way(kind, int(first[row]), other, settled) for other in unlike)
        ties = next((way for way in ways if way), [])
    return list(dict.fromkeys([*ties, *found]))[:MAX_NAMED]


def _around(kind: str, equation: Equation, row: int, settled: Sequence[Equation]) -> list[str]:
    """What is required right beside it, and what fixes either side: no two of them contradict it alone."""
    (first, second) = equation.pairs(kind)[0]
    sides = [int(ids[row]) for ids in (first, second) if ids[row] != FIXED]
    beside = [
        other.says
        for other in settled
        if any(np.isin(sides, ids).any() for pair in other.pairs(kind) for ids in pair)
    ]
    fixed = [says for side in sides for says in _way(kind, side, FIXED, settled)]
    return list(dict.fromkeys([*beside, *fixed]))[:MAX_NAMED]


def _others(settled: Sequence[Equation]) -> str:
    """What is said where no op can be named."""
    if any(equation.magnitude is not None and equation.node is not None for equation in settled):
        return "other BatchNorms fix the scales on both sides"
    return "the ops around it leave it none of its own"


def _before(node: ir.Node | None, system: System) -> str:
    """Why the input of a BatchNorm cannot change: the op that fixes it, above those that only pass it on."""
    source = node.inputs[0] if node is not None else None
    while True:
        producer = source.producer() if source is not None else None
        if producer is None:
            return "it reads the graph's input, which must stay the same"
        if node is not None and producer.graph is not node.graph:
            return f"{producer.op_type} '{producer.name}' before it belongs to the graph around its own"
        given = [value for value in producer.inputs if value is not None and _may_scale(value)]
        is_wall = onnx_op(producer) not in _PASS_ON or any(system.of(value).any() for value in given)
        if is_wall or not given:
            return wall(producer)
        source = next((value for value in given if value.producer() is not None), given[0])


def _may_scale(value: ir.Value) -> bool:
    """Whether it is neither a weight nor an index, a condition or a shape."""
    is_float = value.dtype is None or value.dtype.is_floating_point()
    return is_float and constant(value) is None


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
    return [words for words in says if words][:MAX_NAMED]


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
