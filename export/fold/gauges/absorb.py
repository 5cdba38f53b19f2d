"""What the rules share when they write a solution into the graph."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.fold.batchnorm import Affine
from export.fold.gauges.system import Solution
from export.fold.linear.weights import Refusal
from export.graph.edit import add_initializer, constant
from export.graph.moments import know, moments_of


class CannotWriteError(Exception):
    """New weights that their dtype cannot hold; the message says whose.

    `causes` are the names of the BatchNorms whose scale and shift would go there, empty if that is not known.
    """

    causes: Sequence[str] = ()


def check(outcome: str | Refusal | None) -> None:
    """Raise CannotWriteError for a refusal."""
    if isinstance(outcome, Refusal):
        raise CannotWriteError(outcome.reason)


def affine_before(solution: Solution, node: ir.Node, axis: int, size: int) -> Affine:
    """x as a map of its stored x' = a · (x + b):  x = x'/a − b."""
    source = node.inputs[0]
    assert source is not None
    a, b = solution.along(source, axis, size)
    return Affine(scale=1 / a, shift=-b)


def affine_after(solution: Solution, node: ir.Node, axis: int, size: int) -> Affine:
    """The stored y' as a map of y:  y' = a · y + a · b."""
    a, b = solution.along(node.outputs[0], axis, size)
    return Affine(scale=a, shift=a * b)


def add_constant(solution: Solution, node: ir.Node, array: np.ndarray, op_type: str = "Add") -> None:
    """Put `output op array` after a node, for all its readers, in the dtype of its weights, if it has any."""
    graph, output = node.graph, node.outputs[0]
    assert isinstance(graph, ir.Graph)
    weights = [found for value in node.inputs if (found := constant(value)) is not None]
    dtype = next((weight.dtype for weight in weights if weight.dtype.kind == "f"), array.dtype)
    operand = add_initializer(graph, f"{node.name}.{op_type.lower()}", array.astype(dtype))
    after = ir.Node("", op_type, [None, operand], num_outputs=1, name=f"{node.name}_{op_type.lower()}")
    after.outputs[0].shape, after.outputs[0].type = output.shape, output.type
    graph.insert_after(node, after)
    name = output.name
    ir.convenience.replace_all_uses_with(output, after.outputs[0], replace_graph_outputs=True)
    after.replace_input_with(0, output)
    output.name, after.outputs[0].name = f"{name}_before_{op_type.lower()}", name
    solution.system.ids[after.outputs[0]] = solution.system.of(output)
    know(after.outputs[0], moments_of(output))
    know(output, None)
