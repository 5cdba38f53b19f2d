"""Write what stands before and after a Gemm, MatMul or MatMul + Add into its weights.

    x[i] = p[i] · x'[i] + q[i]        y'[o] = s[o] · y[o] + t[o]

    Gemm             y = α·x·B + β·c      B'[i, o] = s[o] · B[i, o] · p[i]     c' = s · (β·c + α·q·B) + t
    MatMul [+ Add]   y = x·B [+ c]        the same with α = β = 1; of rank 2 it becomes a Gemm

β' is 1.
BatchNorm scales axis 1.  A MatMul on x of rank 3 makes its features on axis 2: another axis, so declined.
"""

import numpy as np
import onnx_ir as ir

from export.fold.batchnorm import Affine
from export.fold.linear.dequantized import fold_dequantized
from export.fold.linear.weights import Refusal, bias_or_zeros, dequantizer, weight_of, write
from export.graph.edit import constant, has_one_reader


def fold_gemm(node: ir.Node, after: Affine, before: Affine | None = None) -> str | Refusal:
    """Fold into a Gemm's B and c."""
    transposed = node.attributes.get_int("transB", 0) == 1
    weight = weight_of(node, 1)
    if isinstance(weight, Refusal):
        if before is not None or dequantizer(node.inputs[1]) is None:
            return weight
        beta = node.attributes.get_float("beta", 1.0)
        if refused := fold_dequantized(node, after, 0 if transposed else 1, beta):
            return refused
        node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
        return f"into the scales of the weights of Gemm '{node.name}'"
    weight_io = weight.T if transposed else weight
    channels = weight_io.shape[1]
    if channels != after.scale.size:
        return Refusal(f"'{node.name}' has {channels} features, the BatchNorm {after.scale.size}")
    bias = bias_or_zeros(node, 2, channels)
    if isinstance(bias, Refusal):
        return bias
    if bias.ndim == 2 and bias.shape[0] != 1:
        return Refusal(f"the bias of '{node.name}' differs from row to row")
    alpha, beta = (node.attributes.get_float(name, 1.0) for name in ("alpha", "beta"))
    bias = bias.reshape(-1) * beta
    if before is not None:
        bias = bias + alpha * (before.shift @ weight_io)
        weight_io = weight_io * before.scale[:, None]
    weight_io = weight_io * after.scale
    new_bias = np.broadcast_to(bias * after.scale + after.shift, (channels,))
    if refused := write(node, {1: weight_io.T if transposed else weight_io, 2: new_bias}):
        return refused
    node.attributes["beta"] = ir.AttrFloat32("beta", 1.0)
    return f"into the weights of Gemm '{node.name}'"


def fold_matmul(node: ir.Node, after: Affine, before: Affine | None = None) -> str | Refusal:
    """Fold into a MatMul of rank 2 with a constant right operand; it becomes a Gemm, which has a bias."""
    if refused := _decline_axis(node):
        return refused
    if constant(node.inputs[0]) is not None:
        return Refusal(f"the constant of MatMul '{node.name}' is its left operand, which makes the rows")
    weight = weight_of(node, 1)
    if isinstance(weight, Refusal):
        if before is not None or dequantizer(node.inputs[1]) is None:
            return weight
        if refused := fold_dequantized(node, after, 1):
            return refused
        node.op_type = "Gemm"
        return f"into the scales of the weights of MatMul '{node.name}' (now a Gemm)"
    if weight.shape[1] != after.scale.size:
        return Refusal(f"'{node.name}' has {weight.shape[1]} features, the BatchNorm {after.scale.size}")
    shift = after.shift
    if before is not None:
        shift = shift + after.scale * (before.shift @ weight)
        weight = weight * before.scale[:, None]
    if refused := write(node, {1: weight * after.scale, 2: shift}):
        return refused
    node.op_type = "Gemm"
    return f"into the weights of MatMul '{node.name}' (now a Gemm)"


def fold_add(node: ir.Node, after: Affine) -> str | Refusal:
    """Fold into MatMul + Add of a constant: the bias of a linear layer written as two ops."""
    operands = [(value, constant(value)) for value in node.inputs]
    bias = next((array for _, array in operands if array is not None), None)
    product = next((value for value, array in operands if array is None), None)
    matmul = product.producer() if product is not None else None
    if bias is None or product is None or matmul is None or matmul.op_type != "MatMul":
        return Refusal(f"Add '{node.name}' before it joins two computed branches")
    if not has_one_reader(product):
        return Refusal(f"the output of MatMul '{matmul.name}' has another reader")
    if refused := _decline_axis(matmul):
        return refused
    if bias.ndim > 2 or bias.size not in (1, after.scale.size) or bias.shape[-1:] not in ((), (bias.size,)):
        return Refusal(f"the Add '{node.name}' differs from row to row: its constant is {bias.shape}")
    shifted = bias.astype(np.float64).reshape(-1) * after.scale + after.shift
    outcome = fold_matmul(matmul, Affine(scale=after.scale, shift=shifted))
    if isinstance(outcome, str):
        _drop_add(node, product)
    return outcome


def _decline_axis(node: ir.Node) -> Refusal | None:
    output = node.outputs[0]
    if output.shape is None:
        return Refusal(f"the rank of MatMul '{node.name}' is unknown, so is the axis of its features")
    if (rank := len(output.shape)) != 2:
        return Refusal(
            f"MatMul '{node.name}' makes its features on axis {rank - 1}, the BatchNorm scales axis 1"
        )
    return None


def _drop_add(node: ir.Node, product: ir.Value) -> None:
    """Take a constant Add out: its constant is in the Gemm now."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    ir.convenience.replace_all_uses_with(node.outputs[0], product)
    graph.remove(node, safe=True)
