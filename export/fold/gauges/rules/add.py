"""Add and Sub tie the scales of what they add; offsets add up.

    y = x₁ ± x₂        a_y = a₁ = a₂        b_y = b₁ ± b₂

A constant takes any offset:

    y = x + k        k' = a · (k + b_y − b_x)
    y = x − k        k' = a · (k − b_y + b_x)
    y = k − x        k' = a · (k + b_y + b_x)

Where it is the bias that x lacks, b_x is also what is left for it (see `System.left`).
"""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.absorb import check
from export.fold.gauges.rules.operand import beside
from export.fold.gauges.system import Solution, System, has_constant
from export.fold.linear.weights import write
from export.graph.edit import constant


def constrain(node: ir.Node, system: System) -> bool:
    """One equation for two branches, none for a constant."""
    first, second = node.inputs
    shape = node.outputs[0].shape
    if first is None or second is None or shape is None:
        return False
    says = f"{node.op_type} '{node.name}' needs the same scale on its branches"
    if has_constant(node, 0) or has_constant(node, 1):
        source, operand = (second, constant(first)) if has_constant(node, 0) else (first, constant(second))
        assert operand is not None
        given = beside(source, operand, len(shape), system)
        out = system.fresh(given.shape)
        system.same_scale(out, given, says, carries=True)
    else:
        one, two = np.broadcast_arrays(system.of(first), system.of(second))
        out = system.fresh(one.shape)
        system.same_scale(out, one, says)
        system.same_scale(out, two, says)
        sign = -1.0 if node.op_type == "Sub" else 1.0
        says = f"{node.op_type} '{node.name}' adds the shifts of its branches"
        system.offset(says, (out, 1.0), (one, -1.0), (two, -sign))
    system.ids[node.outputs[0]] = out
    return True


def constrain_sum(node: ir.Node, system: System) -> bool:
    """Sum or Mean of any number of branches: the same a, and their b add up, or their mean is taken."""
    if any(value is None or constant(value) is not None for value in node.inputs) or not node.inputs:
        return False
    terms = np.broadcast_arrays(*(system.of(value) for value in node.inputs if value is not None))
    out = system.fresh(terms[0].shape)
    for term in terms:
        system.same_scale(out, term, f"{node.op_type} '{node.name}' needs the same scale on its branches")
    says = f"{node.op_type} '{node.name}' adds the shifts of its branches"
    share = 1 / len(terms) if node.op_type == "Mean" else 1.0
    system.offset(says, (out, 1.0), *((term, -share) for term in terms))
    system.ids[node.outputs[0]] = out
    return True


def absorb(node: ir.Node, solution: Solution) -> None:
    """Write the offset into the constant, if there is one."""
    index = 1 if has_constant(node, 1) else 0
    operand, source = constant(node.inputs[index]), node.inputs[1 - index]
    if operand is None or source is None:
        return
    out = solution.system.of(node.outputs[0])
    sign = -1.0 if node.op_type == "Sub" and index == 1 else 1.0
    turned = -1.0 if node.op_type == "Sub" and index == 0 else 1.0
    shift = solution.b[solution.system.of(source)] + solution.left.get(source, 0.0)
    a, offset = solution.a[out], solution.b[out] - turned * shift
    check(write(node, {index: a * (operand.astype(np.float64) + sign * offset)}))
