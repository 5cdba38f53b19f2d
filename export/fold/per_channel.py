"""Count what exporters write in a BatchNorm's place: Mul, Add, Sub or Div by a constant for each channel.

In: a prepared graph.  Out: how many there are.  They are counted only: no fold reads them.

    (N, C, H, W) · (1, C, 1, 1)          (N, H, W, C) + (C,)          (N, C) − (C,)
"""

import onnx_ir as ir

from export.graph.edit import constant, onnx_op

_OPS = {"Mul", "Add", "Sub", "Div"}


def count_per_channel(model: ir.Model) -> int:
    """How many ops change each channel by a number of its own; a bias right after a linear op is none."""
    return sum(_is_per_channel(node) for graph in model.graphs() for node in graph)


def _is_per_channel(node: ir.Node) -> bool:
    if onnx_op(node) not in _OPS:
        return False
    constants = [array for value in node.inputs if (array := constant(value)) is not None]
    others = [value for value in node.inputs if value is not None and constant(value) is None]
    if len(constants) != 1 or len(others) != 1 or others[0].shape is None:
        return False
    rank, shape = len(others[0].shape), constants[0].shape
    sizes = (1,) * (rank - len(shape)) + shape
    varies = [axis for axis, size in enumerate(sizes) if size > 1]
    producer = others[0].producer()
    is_bias = onnx_op(node) == "Add" and onnx_op(producer) in ("MatMul", "Gemm")
    return len(sizes) == rank >= 2 and varies in ([1], [rank - 1]) and not is_bias
