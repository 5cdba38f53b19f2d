"""Mul and Div by a constant per channel, Mul by a gate, and Neg.

    y = k · x, k constant     k' = k · a_y / a_x        b_y = k · b_x
    y = g · x, g computed     a_y = a_x, a_g = 1        b_y = b_x = b_g = 0
    y = −x                    a_y = a_x                 b_y = −b_x

Where k varies within a channel, b = 0.  One number for all channels is left as it is: a_y = a_x.
"""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.absorb import check
from export.fold.gauges.rules.operand import beside
from export.fold.gauges.system import Solution, System, has_constant
from export.fold.linear.weights import write
from export.graph.edit import constant

GATES = {"Sigmoid", "HardSigmoid", "Softmax", "Tanh"}


def constrain(node: ir.Node, system: System) -> bool:
    """By a constant or by a gate."""
    first, second = node.inputs
    shape = node.outputs[0].shape
    if first is None or second is None or shape is None:
        return False
    if has_constant(node, 1):
        return _by_constant(node, first, 1, system)
    if has_constant(node, 0):
        return node.op_type == "Mul" and _by_constant(node, second, 0, system)
    return node.op_type == "Mul" and _by_gate(node, first, second, system)


def constrain_neg(node: ir.Node, system: System) -> bool:
    """A factor of −1."""
    source = node.inputs[0]
    if source is None:
        return False
    given = system.of(source)
    out = system.fresh(given.shape)
    system.same_scale(out, given, f"Neg '{node.name}' passes the scale on", carries=True)
    system.offset(f"Neg '{node.name}' turns the shift", (out, 1.0), (given, 1.0))
    system.ids[node.outputs[0]] = out
    return True


def _by_constant(node: ir.Node, source: ir.Value, index: int, system: System) -> bool:
    factor, shape = constant(node.inputs[index]), node.outputs[0].shape
    assert factor is not None
    assert shape is not None
    if node.op_type == "Div" and not factor.all():
        return False
    given = beside(source, factor, len(shape), system)
    per_channel = _per_channel(factor, given.shape)
    out = system.fresh(given.shape)
    system.ids[node.outputs[0]] = out
    if factor.size == 1:
        system.same_scale(out, given, f"{node.op_type} '{node.name}' passes the scale on")
    if per_channel is None:
        system.no_offset(given, node, "a factor that varies within a channel of")
        system.no_offset(out, node, "a factor that varies within a channel of")
        return True
    factor = 1 / per_channel if node.op_type == "Div" else per_channel
    system.offset(f"{node.op_type} '{node.name}' scales the shift", (out, 1.0), (given, -factor))
    return True


def _by_gate(node: ir.Node, first: ir.Value, second: ir.Value, system: System) -> bool:
    gates = [value for value in (first, second) if _is_gate(value, node.outputs[0])]
    if len(gates) != 1:
        return False
    source = second if gates[0] is first else first
    given, gate = system.of(source), system.of(gates[0])
    shape = node.outputs[0].shape
    if shape is None or given.ndim != len(shape):
        return False
    system.fix(gate, f"the gate of Mul '{node.name}' cannot absorb a scale or shift")
    system.no_offset(given, node, "the gate of")
    system.ids[node.outputs[0]] = given
    return True


def _is_gate(value: ir.Value, product: ir.Value) -> bool:
    producer = value.producer()
    if producer is not None and producer.op_type in GATES:
        return True
    if value.shape is None or product.shape is None or len(value.shape) != len(product.shape):
        return False
    return list(value.shape[2:]) != list(product.shape[2:]) and all(size == 1 for size in value.shape[2:])


def _per_channel(factor: np.ndarray, pattern: tuple[int, ...]) -> np.ndarray | None:
    """The factor in the pattern's shape, float64; None if it varies where the pattern does not."""
    wide = factor.astype(np.float64).reshape((1,) * max(0, len(pattern) - factor.ndim) + factor.shape)
    for axis, size in enumerate(pattern):
        if wide.shape[axis] not in (1, size):
            wide = wide if (wide != wide.take([0], axis)).any() else wide.take([0], axis)
    try:
        return np.broadcast_to(wide, pattern).copy()
    except ValueError:
        return None


def absorb(node: ir.Node, solution: Solution) -> None:
    """Write the scales around the node into its constant, if it has one for each channel."""
    index = 1 if has_constant(node, 1) else 0
    factor, source = constant(node.inputs[index]), node.inputs[1 - index]
    if factor is None or factor.size == 1 or source is None:
        return
    gain = solution.a[solution.system.of(node.outputs[0])] / solution.a[solution.system.of(source)]
    factor = factor.astype(np.float64)
    check(write(node, {index: factor / gain if node.op_type == "Div" else factor * gain}))
