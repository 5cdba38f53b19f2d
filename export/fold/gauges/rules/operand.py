"""The gauge of a tensor beside a constant, in Add, Sub, Mul and Div; and which constants are biases."""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.system import System, has_constant, on_axis
from export.graph.edit import has_one_reader, onnx_op


def beside(source: ir.Value, operand: np.ndarray, rank: int, system: System) -> np.ndarray:
    """The ids of a tensor that is combined with a constant, with as many axes as the result.

    What is fixed has one id 0 for all channels, as after an op without a rule.  Beside a constant of shape
    (C, 1, 1) it is repeated, (1, C, 1, 1): so the result gets a gauge for each place of the constant, which
    can be written into it.  A constant that varies along several axes does so for channels, on axis 1.
    Integers are left alone: they hold no scale.
    """
    ids = system.of(source)
    ids = ids.reshape((1,) * (rank - ids.ndim) + ids.shape)
    axes = [rank - operand.ndim + axis for axis, size in enumerate(operand.shape) if size > 1]
    if ids.any() or operand.dtype.kind != "f" or not axes:
        return ids
    axis = axes[0] if len(axes) == 1 else 1
    if axis not in axes:
        return ids
    size = operand.shape[axis - (rank - operand.ndim)]
    return np.zeros(np.broadcast_shapes(ids.shape, on_axis(rank, axis, size)), dtype=np.int64)


def has_bias_after(node: ir.Node) -> bool:
    """Whether an Add or Sub of a constant alone reads its output: a bias, which takes any shift."""
    output = node.outputs[0]
    if not has_one_reader(output):
        return False
    (reader,) = output.consumers()
    if onnx_op(reader) not in ("Add", "Sub") or reader.graph is not node.graph:
        return False
    return reader.outputs[0].shape is not None and (has_constant(reader, 0) or has_constant(reader, 1))
