"""Mul and Div by a constant per channel, Mul by a computed tensor, and Neg.

    y = k · x, k constant     k' = k · a_y / a_x        b_y = k · b_x, or an Add of a_y · (b_y − k · b_x)
    y = g · x, g computed     a_y = a_x, a_g = 1        b_x = b_g = 0, b_y = 0, or an Add of a_y · b_y
    y = −x                    a_y = a_x                 b_y = −b_x

Where k varies within a channel, b = 0, or an Add again, or the constant of an Add or Sub after it takes the
shift, place by place.  One number for all channels is left as it is: a_y = a_x.  Of two computed tensors one
stays as it is: the gate, if one is, or else one that is fixed; where neither is, the second, or the first if
more BatchNorms go then (see `choices`).
"""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.absorb import add_constant, check
from export.fold.gauges.rules.operand import beside, has_bias_after
from export.fold.gauges.system import Choice, Price, Solution, System, has_constant
from export.fold.linear.weights import write
from export.graph.edit import constant, has_one_reader

GATES = {"Sigmoid", "HardSigmoid", "Softmax", "Tanh"}


def constrain(node: ir.Node, system: System) -> bool:
    """By a constant or by a computed tensor."""
    first, second = node.inputs
    shape = node.outputs[0].shape
    if first is None or second is None or shape is None:
        return False
    if has_constant(node, 1):
        return _by_constant(node, first, 1, system)
    if has_constant(node, 0):
        return node.op_type == "Mul" and _by_constant(node, second, 0, system)
    return node.op_type == "Mul" and _by_computed(node, first, second, system)


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
    # One Add for one BatchNorm: a shift that several ops read would need an Add for each.
    can_pay = factor.dtype.kind == "f" and (has_one_reader(source) or not given.any())
    price = Price.BIAS if can_pay else None
    if per_channel is None and has_bias_after(node):
        wide = factor.astype(np.float64)
        system.left[node.outputs[0]] = lambda b: b[given] / wide if node.op_type == "Div" else b[given] * wide
        return True
    if per_channel is None:
        system.no_offset(given, node, "a factor that varies within a channel of", price)
        system.no_offset(out, node, "a factor that varies within a channel of", price)
        return True
    factor = 1 / per_channel if node.op_type == "Div" else per_channel
    says = f"{node.op_type} '{node.name}' scales the shift"
    system.offset(says, (out, 1.0), (given, -factor), price=price, node=node)
    return True


def _by_computed(node: ir.Node, first: ir.Value, second: ir.Value, system: System) -> bool:
    source, gate = _scaled(node, first, second, system)
    given, shape = system.of(source), node.outputs[0].shape
    if first is second or shape is None or given.ndim != len(shape):  # a square: a_y = a_x²
        return False
    system.fix(system.of(gate), f"the gate of Mul '{node.name}' cannot absorb a scale or shift")
    system.no_offset(given, node, "the gate of")
    out = system.fresh(given.shape)
    system.same_scale(out, given, f"Mul '{node.name}' passes the scale on", carries=True)
    system.no_offset(out, node, "the gate of", Price.BIAS)
    system.ids[node.outputs[0]] = out
    return True


def _scaled(node: ir.Node, first: ir.Value, second: ir.Value, system: System) -> tuple[ir.Value, ir.Value]:
    """The factor that takes a scale, and the other one, which stays as it is."""
    is_gate, is_free = _is_gate(first, node.outputs[0]), bool(system.of(first).any())
    if is_gate != _is_gate(second, node.outputs[0]):
        return (second, first) if is_gate else (first, second)
    if is_free and first is not second and system.of(second).any():
        system.choices[node] = Choice.FACTOR
        is_free = node not in system.own
    return (first, second) if is_free else (second, first)


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
    """Write the scales around the node into its constant, if it has one for each channel, and the shift."""
    index = 1 if has_constant(node, 1) else 0
    factor, output = constant(node.inputs[index]), node.outputs[0]
    source = node.inputs[1 - index] if factor is not None else None
    if node in solution.paid:
        _add_shift(node, source, factor, solution)
        output = node.outputs[0]
    if factor is None or factor.size == 1 or source is None:
        return
    gain = solution.a[solution.system.of(output)] / solution.a[solution.system.of(source)]
    factor = factor.astype(np.float64)
    check(write(node, {index: factor / gain if node.op_type == "Div" else factor * gain}))


def _add_shift(node: ir.Node, source: ir.Value | None, factor: np.ndarray | None, solution: Solution) -> None:
    """What the product of the stored tensors lacks; its `source` has no shift where both are computed."""
    output = node.outputs[0]
    after = solution.system.of(output)
    shift = solution.b[after]
    if source is not None and factor is not None:
        by = 1 / factor.astype(np.float64) if node.op_type == "Div" else factor.astype(np.float64)
        shift = shift - by * solution.b[solution.system.of(source)]
    dtype = np.dtype(np.float32) if output.dtype is None else output.dtype.numpy()
    add_constant(solution, node, (solution.a[after] * shift).astype(dtype))
