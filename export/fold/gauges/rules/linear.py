"""Gemm and MatMul with a constant right operand take any gauge on their inputs' and outputs' features.

    y[o] = Σ x[i] · B[i, o] + c[o]
    B'[i, o] = a_o · B[i, o] / a_i      c' = a_o · (c − Σ B[i, o] · b_i + b_o)

A MatMul of rank 2 becomes a Gemm, which has room for c'.  One of a higher rank has none: Σ B · b_i = b_o, or
an Add or Sub of a constant after it takes the shift, or the price is an Add after it.
"""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.absorb import add_constant, affine_after, affine_before, check
from export.fold.gauges.rules import contract
from export.fold.gauges.rules.operand import has_bias_after
from export.fold.gauges.system import Price, Solution, System, along, has_constant, on_axis
from export.fold.linear.gemm import fold_gemm, fold_matmul
from export.fold.linear.weights import write
from export.graph.edit import constant


def constrain_gemm(node: ir.Node, system: System) -> bool:
    """One unknown for each output feature."""
    weight = constant(node.inputs[1])
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if weight is None or node.inputs[0] is None or node.attributes.get_int("transA", 0) == 1:
        return False
    if len(node.inputs) > 2 and node.inputs[2] and (bias is None or (bias.ndim == 2 and bias.shape[0] > 1)):
        return False
    if system.narrow(node.inputs[0], 1, node) is None:
        return False
    features = weight.shape[0 if node.attributes.get_int("transB", 0) else 1]
    system.ids[node.outputs[0]] = system.fresh((1, features))
    return True


def constrain_matmul(node: ir.Node, system: System) -> bool:
    """One unknown for each output feature, on the last axis; on others see `contract`."""
    source, weight, shape = node.inputs[0], constant(node.inputs[1]), node.outputs[0].shape
    if source is None or shape is None:
        return False
    if weight is None or not _is_of_features(node) or not along(system.of(source), -1):
        return contract.constrain(node, system)
    given, rank = system.narrow(source, -1, node), len(shape)
    if given is None or given.ndim != rank:
        return False
    out = system.fresh(on_axis(rank, -1, weight.shape[1]))
    system.ids[node.outputs[0]] = out
    if rank != 2 and has_bias_after(node):
        b_in = on_axis(rank, -1, weight.shape[0])
        system.left[node.outputs[0]] = lambda b: np.broadcast_to(b[given], b_in) @ weight.astype(np.float64)
    elif rank != 2:
        says = "the missing bias of"
        system.no_offset(out, node, says, Price.BIAS)
        system.no_offset(given, node, says, Price.BIAS)
    return True


def absorb_gemm(node: ir.Node, solution: Solution) -> None:
    """Write the gauges around a Gemm into its B and c."""
    weight = constant(node.inputs[1])
    assert weight is not None
    inputs, outputs = weight.shape[::-1] if node.attributes.get_int("transB", 0) else weight.shape
    check(fold_gemm(node, affine_after(solution, node, 1, outputs), affine_before(solution, node, 1, inputs)))


def absorb_matmul(node: ir.Node, solution: Solution) -> None:
    """Write the gauges around a MatMul into its constant; an Add takes the offset that is left."""
    weight = constant(node.inputs[1])
    sides = (node.inputs[0], node.outputs[0])
    is_own = all(along(solution.system.of(value), -1) for value in sides if value is not None)
    if not _is_of_features(node) or not is_own:
        contract.absorb(node, solution)
        return
    assert weight is not None
    before = affine_before(solution, node, -1, weight.shape[0])
    after = affine_after(solution, node, -1, weight.shape[1])
    shift = after.shift + after.scale * (before.shift @ weight.astype(np.float64))
    if node.outputs[0].shape is not None and len(node.outputs[0].shape) == 2 and shift.any():
        check(fold_matmul(node, after, before))
        return
    if node in solution.paid and shift.any():
        add_constant(solution, node, shift)
    check(write(node, {1: before.scale[:, None] * weight * after.scale}))


def _is_of_features(node: ir.Node) -> bool:
    """Whether the right operand, and that alone, is one constant matrix."""
    weight = constant(node.inputs[1])
    return weight is not None and weight.ndim == 2 and not has_constant(node, 0)
