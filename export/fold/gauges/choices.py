"""Which ops are to do the other thing that they can, for the BatchNorms that stay otherwise.

    y = A · x · W, A of nodes, W of features, x the input       a_y along the nodes, which A takes,
                                                                or along the features, which W takes
    y = u · v, both computed                                    u passes its scale on, and v stays as it is,
                                                                or the other way round

A walk through the graph meets A first, so W passes on A's.  What the net asks for is known at the BatchNorm
after it, on either axis.  So those that stay are asked whether they would go, alone, if all such ops took
their own: once those that make the last axis, once the others; and once if all products passed on the scale
of their other factor.
"""

from collections.abc import Mapping

import onnx_ir as ir

from export.fold.batchnorm import BatchNorm
from export.fold.gauges.build import build
from export.fold.gauges.rules import LINEAR
from export.fold.gauges.rules.batchnorm import gone
from export.fold.gauges.solve import Settled
from export.fold.gauges.system import Choice, Price, System

_ENDS = {*LINEAR, "BatchNormalization"} - {"MatMul"}


def worth_turning(
    graph: ir.Graph, left: Mapping[ir.Node, BatchNorm], system: System, prices: frozenset[Price]
) -> frozenset[ir.Node]:
    """The ops that do the other thing, for BatchNorms that would go then; contractions only before them.

    Args:
        left: the BatchNorms that stay otherwise.
        system: of the first walk, in which every op does the first thing.
    """
    found: frozenset[ir.Node] = frozenset()
    for choice in Choice:
        group = frozenset(node for node, other in system.choices.items() if other is choice)
        turned = build(graph, group) if group and left else system
        for node, norm in left.items() if group else ():
            equation = gone(node, norm, turned)
            if Settled(turned, [equation], without=prices).add(equation) is None:
                # What is summed up with a product after the BatchNorm may need its scale, too.
                found |= group if choice is Choice.FACTOR else group & _before(node)
    return found


def _before(norm: ir.Node) -> set[ir.Node]:
    """Every op before it, up to those that take any scale."""
    seen: set[ir.Node] = set()
    pending = [norm]
    while pending:
        producers = {value.producer() for value in pending.pop().inputs if value is not None}
        for node in producers - seen - {None}:
            assert node is not None
            seen.add(node)
            if node.op_type not in _ENDS:
                pending.append(node)
    return seen
