"""Channels with γ = 0: what reads them may as well not.

In: a BatchNormalization with such channels.  Out: the linear ops that read them, or nothing.

    y = β, whatever x      →  Relu, pools  →      v, a constant      →  Conv, Gemm
    Σ W[o, i] · v[i] goes into the bias, and W[o, i] becomes 0

No scale and shift on x makes y = β, so such a channel would keep its whole BatchNorm.  Once nothing reads the
channel, the BatchNorm may give anything there, and asks for nothing.  A padded Conv adds v everywhere but in
its padding: there v must be 0, as after a Relu where β ≤ 0.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from export.fold.batchnorm import Affine, BatchNorm
from export.fold.gauges.absorb import check
from export.fold.gauges.rules.conv import pads
from export.fold.linear.conv import fold_conv
from export.fold.linear.gemm import fold_gemm
from export.fold.linear.weights import Refusal, bias_or_zeros
from export.graph.edit import constant, onnx_op

Readers = Mapping[ir.Node, Affine]
"""Linear ops, each with its input x as a map of what it will read: 0 · x + v in dead channels, else x."""

_PASS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "Relu": lambda values: np.maximum(values, 0),
    "Identity": lambda values: values,
    "MaxPool": lambda values: values,
    "GlobalMaxPool": lambda values: values,
    "GlobalAveragePool": lambda values: values,
}


def dead_readers(node: ir.Node, norm: BatchNorm) -> Readers | None:
    """The linear ops that read the dead channels of a BatchNorm; None if anything else does."""
    if norm.axis != 1:
        return None
    dead = norm.scale == 0
    readers: dict[ir.Node, Affine] = {}
    pending = [(node.outputs[0], np.where(dead, norm.shift, 0.0))]
    while pending:
        value, values = pending.pop()
        if value.is_graph_output():
            return None
        for reader, index in value.uses():
            kind = onnx_op(reader) or ""
            if kind in _PASS and len(reader.outputs) == 1:
                pending.append((reader.outputs[0], _PASS[kind](values)))
            elif _is_flat(reader) or _averages_places(reader):
                pending.append((reader.outputs[0], values))
            elif index == 0 and _takes(reader, values):
                readers[reader] = Affine(scale=np.where(dead, 0.0, 1.0), shift=values)
            else:
                return None
    return readers


def silence(readers: Readers) -> None:
    """Write what dead channels add into the biases, and 0 into their weights; raises CannotWriteError."""
    for node, before in readers.items():
        weight = constant(node.inputs[1])
        assert weight is not None
        is_conv = node.op_type == "Conv"
        outputs = weight.shape[0 if is_conv or node.attributes.get_int("transB", 0) == 1 else 1]
        as_it_is = Affine(scale=np.ones(outputs), shift=np.zeros(outputs))
        check((fold_conv if is_conv else fold_gemm)(node, as_it_is, before))


def _takes(node: ir.Node, values: np.ndarray) -> bool:
    """Whether a constant in each place of some channels becomes one number of its bias."""
    weight = constant(node.inputs[1]) if onnx_op(node) in ("Conv", "Gemm") else None
    if weight is None or isinstance(bias_or_zeros(node, 2, 1), Refusal):
        return False
    if node.op_type == "Conv":
        channels = weight.shape[1] * node.attributes.get_int("group", 1)
        return channels == values.size and not (values.any() and pads(node, weight.shape[2:]))
    channels = weight.shape[1 if node.attributes.get_int("transB", 0) == 1 else 0]
    return channels == values.size and node.attributes.get_int("transA", 0) == 0


def _averages_places(node: ir.Node) -> bool:
    """A ReduceMean or ReduceMax over axes after the channels."""
    source = node.inputs[0]
    axes = node.attributes.get_ints("axes", None)
    if axes is None and len(node.inputs) > 1 and (given := constant(node.inputs[1])) is not None:
        axes = given.tolist()
    if onnx_op(node) not in ("ReduceMean", "ReduceMax") or source is None or source.shape is None or not axes:
        return False
    return min(axis % len(source.shape) for axis in axes) > 1


def _is_flat(node: ir.Node) -> bool:
    """A Flatten of (N, C, 1, 1), and what else only drops axes of size 1 after the channels."""
    if onnx_op(node) not in ("Flatten", "Reshape", "Squeeze"):
        return False
    before, after = node.inputs[0].shape if node.inputs[0] else None, node.outputs[0].shape
    if before is None or after is None or len(before) < 2 or len(after) < 2:
        return False
    return before[1] == after[1] and all(size == 1 for size in (*before[2:], *after[2:]))
