"""Take out ops that change nothing: x + 0, x − 0, x · 1, x / 1.

Nets that sum branches from 0 on leave such Adds behind.  Where one stands, branches cannot be merged, and a
BatchNorm's shift would make it an Add per channel.
"""

import onnx_ir as ir

from export.graph.edit import constant, replace_by_input

_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}


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
