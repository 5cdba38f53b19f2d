"""Write plainly what exporters write otherwise.

x + 0, x − 0, x · 1 and x / 1 go.  Nets that sum branches from 0 on leave such Adds behind.  Where one stands,
branches cannot be merged, and a BatchNorm's shift would make it an Add per channel.

Clip(x, 0, ∞) is a Relu, and Sum(x, y) an Add: under these names the rules know them, and so do other tools.
"""

import numpy as np
import onnx_ir as ir

from export.graph.edit import constant, onnx_op, replace_by_input

_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}


def plain_names(graph: ir.Graph) -> None:
    """In place: a Clip at 0 alone becomes a Relu, a Sum of two an Add."""
    for node in graph:
        op_type = onnx_op(node)
        if op_type == "Sum" and len(node.inputs) == 2:
            node.op_type, node.version = "Add", None
        elif op_type == "Clip" and _limits(node) == (0.0, np.inf):
            node.op_type, node.version = "Relu", None
            node.attributes.clear()
            node.resize_inputs(1)


def _limits(clip: ir.Node) -> tuple[float, float] | None:
    """Where a Clip cuts; a bound as large as its dtype's largest number is none.  None if it is computed."""
    limits = []
    for index, name, default in ((1, "min", -np.inf), (2, "max", np.inf)):
        value = clip.inputs[index] if index < len(clip.inputs) else None
        array = constant(value)
        if value is not None and (array is None or array.dtype.kind != "f"):
            return None
        limit = clip.attributes.get_float(name, default) if array is None else float(np.ravel(array)[0])
        largest = float(np.finfo(np.float32 if array is None else array.dtype).max)
        limits.append(default if abs(limit) >= largest else limit)
    return limits[0], limits[1]


def drop_neutral(graph: ir.Graph) -> None:
    """In place; an op stays where its constant would change the tensor's shape."""
    for node in list(graph):
        if node.domain not in ("", "ai.onnx") or node.op_type not in _NEUTRAL or len(node.inputs) != 2:
            continue
        commutes = node.op_type in ("Add", "Mul")
        for index in (1, 0) if commutes else (1,):
            if _is_neutral(node, index):
                if index == 0:
                    node.replace_input_with(0, node.inputs[1])
                replace_by_input(node, graph)
                break


def _is_neutral(node: ir.Node, index: int) -> bool:
    array, source = constant(node.inputs[index]), node.inputs[1 - index]
    if array is None or source is None or constant(source) is not None or source.shape is None:
        return False
    keeps_shape = array.ndim <= len(source.shape) and array.size == 1
    return keeps_shape and bool((array == _NEUTRAL[node.op_type]).all()) and array.dtype.kind == "f"
