"""A graph in which some numbers are quantized to a neighbour of what they were: what rounding may do to it.

In: a graph with QuantizeLinear or DynamicQuantizeLinear of what it computes.  Out: a copy.

    QuantizeLinear           x + d · {−1, 0, 1}              d is its scale
    DynamicQuantizeLinear    x · (1 + {−1, 0, 1} / 127)      its scale is about max|x| / 127

Near the middle between two integers any rounding of x decides which of both it becomes.  That is rare, but
some of a large tensor's numbers are always there, and one of them moves an answer by far more than float32
does.
"""

import math

import numpy as np
import onnx_ir as ir

from export.compute.rows import constant

_QUANTIZE = {"QuantizeLinear", "DynamicQuantizeLinear"}
FLIPS = 2  # of each row, in each tensor


def with_flips(model: ir.Model, random: np.random.Generator) -> ir.Model | None:
    """A copy with a few flips in each quantized tensor whose size is known; None if there is none."""
    if not any(node.op_type in _QUANTIZE for node in model.graph):
        return None
    model, is_moved = model.clone(), False
    for node in list(model.graph):
        op_type, source = node.op_type, node.inputs[0] if node.inputs else None
        if op_type not in _QUANTIZE or source is None:
            continue
        scale = constant(node.inputs[1]) if op_type == "QuantizeLinear" else np.ones(1)
        sizes = _row_sizes(source)
        if scale is None or scale.size != 1 or sizes is None:
            continue
        signs = random.choice([-1.0, 1.0], size=sizes)
        share = FLIPS / max(1, math.prod(sizes))
        steps = np.where(random.random(size=sizes) < share, signs, 0.0)
        is_dynamic = op_type == "DynamicQuantizeLinear"
        operand = 1 + steps / 127 if is_dynamic else steps * float(scale.reshape(()))
        _insert(node, source, "Mul" if is_dynamic else "Add", operand)
        is_moved = True
    return model if is_moved else None


def _row_sizes(source: ir.Value) -> list[int] | None:
    """The sizes after the rows of a computed tensor; None if one is open."""
    if source.shape is None or source.dtype is None or source.is_initializer():
        return None
    sizes = [size for size in source.shape[1:] if isinstance(size, int)]
    return sizes if len(sizes) == len(source.shape) - 1 else None


def _insert(node: ir.Node, source: ir.Value, op_type: str, operand: np.ndarray) -> None:
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    assert source.dtype is not None
    name = f"{node.name}.flips"
    tensor = ir.tensor(operand.astype(source.dtype.numpy()), name=name)
    moved = ir.Value(name=name, shape=ir.Shape(operand.shape), type=ir.TensorType(source.dtype))
    moved.const_value = tensor
    graph.register_initializer(moved)
    before = ir.Node("", op_type, [source, moved], num_outputs=1, name=f"{node.name}_flips")
    before.outputs[0].shape, before.outputs[0].type = source.shape, source.type
    graph.insert_before(node, before)
    node.replace_input_with(0, before.outputs[0])
