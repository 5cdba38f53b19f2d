"""Write a sum of stacked branches as the sum that it is.

    ReduceSum(Concat(Unsqueeze(x, k), Unsqueeze(y, k), …; axis k); k)    is    Sum(x, y, …)
    ReduceMean of the same                                               is    Mean(x, y, …)

`torch.stack([x, y]).sum(0)` comes so.  A Concat asks for one scale and one shift on its parts, a Sum only for
one scale; and branches that are summed may become one Conv, or one BatchNorm.
"""

import onnx_ir as ir

from export.graph.edit import constant, onnx_op

_DIRECT = {"ReduceSum": "Sum", "ReduceMean": "Mean"}
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


def sum_directly(graph: ir.Graph) -> None:
    """In place."""
    for node in list(graph):
        op_type = _DIRECT.get(onnx_op(node) or "")
        terms = _terms(node) if op_type is not None else None
        if op_type is None or terms is None:
            continue
        concat = node.inputs[0].producer()  # type: ignore[union-attr]
        node.op_type, node.version = op_type, None
        node.attributes.clear()
        node.resize_inputs(len(terms))
        for index, term in enumerate(terms):
            node.replace_input_with(index, term)
        _drop_unread(concat, graph)


def _terms(reduce: ir.Node) -> list[ir.Value] | None:
    """What was stacked along the axis over which it sums; None where that is not all that it does."""
    source, axis = reduce.inputs[0], _axis(reduce)
    concat = source.producer() if source is not None else None
    if source is None or source.shape is None or source.dtype not in _FLOATS:  # a Sum takes no integers
        return None
    if reduce.attributes.get_int("keepdims", 1) == 1 or onnx_op(concat) != "Concat":
        return None
    assert concat is not None
    if concat.attributes.get_int("axis", 0) % len(source.shape) != axis:
        return None
    parts = [value.producer() if value is not None else None for value in concat.inputs]
    terms = [
        part.inputs[0]
        for part in parts
        if part is not None and onnx_op(part) == "Unsqueeze" and _axis(part) == axis
    ]
    found = [term for term in terms if term is not None]
    return found if len(found) == len(concat.inputs) else None


def _drop_unread(concat: ir.Node | None, graph: ir.Graph) -> None:
    """The Unsqueezes read what was stacked, whose maker must have one reader to be merged with others."""
    assert concat is not None
    parts = [value.producer() for value in concat.inputs if value is not None]
    for node in (concat, *dict.fromkeys(parts)):
        if node is not None and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
            graph.remove(node, safe=True)


def _axis(node: ir.Node) -> int | None:
    """The one axis that it takes out or puts in, of the tensor that has it; None if there are several."""
    wide = node.outputs[0] if node.op_type == "Unsqueeze" else node.inputs[0]
    axes = node.attributes.get_ints("axes", None)
    if axes is None and len(node.inputs) > 1 and (given := constant(node.inputs[1])) is not None:
        axes = [int(axis) for axis in given.ravel()]
    if axes is None or len(axes) != 1 or wide is None or wide.shape is None:
        return None
    return axes[0] % len(wide.shape)
