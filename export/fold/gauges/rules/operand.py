"""The gauge of a tensor beside a constant, in Add, Sub, Mul and Div."""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.system import System, on_axis


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
