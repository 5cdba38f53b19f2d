"""Ask every op of a graph for its equations.

In: a prepared graph.  Out: the `System` of its gauges.
"""

import onnx_ir as ir

from export.fold.gauges.rules import RULES
from export.fold.gauges.system import System, wall
from export.graph.edit import constant, onnx_op


def build(graph: ir.Graph, own: frozenset[ir.Node] = frozenset()) -> System:
    """One walk through the graph, in order; `own` is as in `System`."""
    system = System(own=own)
    for node in graph:
        rule = RULES.get(onnx_op(node) or "")
        if rule is None or not rule.constrain(node, system):
            for value in node.inputs:
                if value is not None and constant(value) is None:
                    system.fix(system.of(value), wall(node))
        for output in node.outputs:
            if output.is_graph_output():
                system.fix(system.of(output), f"the graph's output '{output.name}' must stay the same")
            elif any(reader.graph is not graph for reader, _ in output.uses()):
                system.fix(system.of(output), f"'{output.name}' is read by a subgraph")
    return system
