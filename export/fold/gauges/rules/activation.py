"""Relu, LeakyRelu, PRelu and Abs commute with a positive scale, with no offset.

    relu(a · x) = a · relu(x)  for a > 0

With any gauge Relu is max(x, 0) with another constant, at the price of a Max or Min where a Relu was:

    a · (relu(x) + b) = max(a · (x + b), a · b)  for a > 0,  min  for a < 0
"""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.absorb import add_constant
from export.fold.gauges.system import Price, Solution, System, has_constant
from export.graph.edit import add_initializer

FIRST_BROADCASTING_OPSET = 8


def constrain(node: ir.Node, system: System) -> bool:
    """The same gauge before and after."""
    source = node.inputs[0]
    if source is None or (node.op_type == "PRelu" and not has_constant(node, 1)):
        return False
    given = system.of(source)
    opset = node.graph.opset_imports.get("", 0) if isinstance(node.graph, ir.Graph) else 0
    can_pay = node.op_type == "Relu" and opset >= FIRST_BROADCASTING_OPSET and given.ndim > 0
    price = Price.THRESHOLD if can_pay else None
    system.positive(given, node, price)
    system.no_offset(given, node, "the cut at 0 of", price)
    system.ids[node.outputs[0]] = given
    return True


def absorb(node: ir.Node, solution: Solution) -> None:
    """Make a Relu a Max, a Min, or both, where its gauge asks for it."""
    source = node.inputs[0]
    assert source is not None
    ids = solution.system.of(source)
    a, b = solution.a[ids], solution.b[ids]
    if (a > 0).all() and (b == 0).all():
        return
    dtype = source.dtype.numpy() if source.dtype is not None else np.dtype(np.float32)
    everything = float(np.finfo(dtype).max)
    assert isinstance(node.graph, ir.Graph)
    upper = np.where(a < 0, a * b, everything).astype(dtype)
    lower = np.where(a > 0, a * b, -everything).astype(dtype)
    first, second = (("Max", lower), ("Min", upper)) if (a > 0).any() else (("Min", upper), ("Max", lower))
    node.op_type = first[0]
    node.resize_inputs(2)
    node.replace_input_with(1, add_initializer(node.graph, f"{node.name}.{first[0].lower()}", first[1]))
    if (a > 0).any() and (a < 0).any():
        add_constant(solution, node, second[1], second[0])
