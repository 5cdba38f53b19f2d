"""Write plainly what exporters write otherwise.

x + 0, x − 0, x · 1 and x / 1 go.  Nets that sum branches from 0 on leave such Adds behind.  Where one stands,
branches cannot be merged, and a BatchNorm's shift would make it an Add per channel.

So do ops that hand on what they are given: Dropout in inference, Cast to the same type, Sum or Concat of one,
a Transpose that keeps the order, a Pad of nothing, an Expand that Mul or Add would do.
Between a linear op and a BatchNorm they would hide one
from the other, and a γ of 0 folds only into the op right before it.

Clip(x, 0, ∞) is a Relu, and Sum(x, y, …) are Adds: under these names the rules know them, and so do other
tools.
γ and β that quantizers stored as integers with a scale are the numbers that they stand for.
"""

from collections.abc import Callable, Mapping
from itertools import zip_longest

import numpy as np
import onnx_ir as ir

from export.fold.linear.weights import dequantized, dequantizer
from export.graph.edit import add_initializer, constant, onnx_op, replace_by_input
from export.graph.kept_pads import POOLS
from export.graph.sizes import sizes_of

_NEUTRAL = {"Add": 0, "Sub": 0, "Mul": 1, "Div": 1}


def plain_names(graph: ir.Graph) -> None:
    """In place: a Clip at 0 alone becomes a Relu, a Sum of two an Add, one of more branches several Adds."""
    for node in list(graph):
        op_type = onnx_op(node)
        if op_type == "Sum" and len(node.inputs) == 2:
            node.op_type, node.version = "Add", None
        elif op_type == "Sum" and len(node.inputs) > 2 and _sums_branches(node):
            _add_one_by_one(node, graph)
        elif op_type == "Clip" and _limits(node) == (0.0, np.inf):
            node.op_type, node.version = "Relu", None
            node.attributes.clear()
            node.resize_inputs(1)


def _sums_branches(node: ir.Node) -> bool:
    """Whether two of what is summed could be merged, and all are of one known shape."""
    shapes = [None if value is None else value.shape for value in node.inputs]
    makers = [onnx_op(value.producer()) for value in node.inputs if value is not None]
    is_alike = shapes[0] is not None and all(shape == shapes[0] for shape in shapes)
    return is_alike and sum(maker in ("Conv", "BatchNormalization") for maker in makers) > 1


def _add_one_by_one(node: ir.Node, graph: ir.Graph) -> None:
    """The Sum becomes the last of the Adds."""
    total, *others, last = node.inputs
    for place, other in enumerate(others):
        add = ir.node("Add", [total, other], name=f"{node.name}_{place}")
        add.outputs[0].shape, add.outputs[0].type = node.inputs[0].shape, node.inputs[0].type  # type: ignore[union-attr]
        graph.insert_before(node, add)
        total = add.outputs[0]
    node.resize_inputs(2)
    node.replace_input_with(0, total)
    node.replace_input_with(1, last)
    node.op_type, node.version = "Add", None


def plain_parameters(graph: ir.Graph) -> None:
    """In place: parameters of a BatchNorm that are integers with a scale become numbers."""
    for node in graph:
        if onnx_op(node) != "BatchNormalization":
            continue
        for index, value in enumerate(node.inputs[1:5], 1):
            source, array = dequantizer(value), dequantized(value)
            if source is not None and array is not None and value is not None and value.dtype is not None:
                plain = add_initializer(graph, f"{source.name}.numbers", array.astype(value.dtype.numpy()))
                node.replace_input_with(index, plain)


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
        op_type = onnx_op(node) or ""
        if op_type in _SAME and node.inputs and node.inputs[0] is not None and _SAME[op_type](node):
            _hand_on(node, graph)
            continue
        if op_type not in _NEUTRAL or len(node.inputs) != 2:
            continue
        for index in (0, 1):
            _unexpand(node, index, graph)
        commutes = node.op_type in ("Add", "Mul")
        for index in (1, 0) if commutes else (1,):
            if _is_neutral(node, index):
                if index == 0:
                    node.replace_input_with(0, node.inputs[1])
                replace_by_input(node, graph)
                break


def _unexpand(node: ir.Node, index: int, graph: ir.Graph) -> None:
    """Read a constant as it is, where an Expand repeats it no further than the op itself does."""
    value, other = node.inputs[index], node.inputs[1 - index]
    expand = value.producer() if value is not None else None
    if expand is None or other is None or onnx_op(expand) != "Expand" or constant(expand.inputs[0]) is None:
        return
    wanted = expand.inputs[1].producer() if expand.inputs[1] is not None else None
    source = wanted.inputs[0] if onnx_op(wanted) == "Shape" and wanted and not wanted.attributes else None
    if not any(_is_repeated_so(expand.inputs[0], one, other) for one in (value, source)):
        return
    node.replace_input_with(index, expand.inputs[0])
    for unread in (expand, wanted):  # a Shape reads what a linear op makes, which must have one reader
        if unread is None or any(output.uses() or output.is_graph_output() for output in unread.outputs):
            continue
        graph.remove(unread, safe=True)


def _is_repeated_so(own: ir.Value | None, expanded: ir.Value | None, other: ir.Value) -> bool:
    """Whether `own` becomes as large as `expanded` only along axes along which `other` is, if by name."""
    if expanded is other:
        return True
    values = [one for one in (own, expanded, other) if one is not None and one.shape is not None]
    if len(values) < 3:
        return False
    # From the last axis, as they are broadcast; an axis that one has not is of size 1.
    places = zip_longest(*(reversed(sizes_of(one)) for one in values), fillvalue=1)
    return all(size is not None and size in (old, beside) for old, size, beside in places)


def _is_neutral(node: ir.Node, index: int) -> bool:
    array, source = constant(node.inputs[index]), node.inputs[1 - index]
    if array is None or source is None or constant(source) is not None or source.shape is None:
        return False
    keeps_shape = array.ndim <= len(source.shape) and array.size == 1
    return keeps_shape and bool((array == _NEUTRAL[node.op_type]).all()) and array.dtype.kind == "f"


def _hand_on(node: ir.Node, graph: ir.Graph) -> None:
    """Take an op out whose output is its input; a Dropout whose mask is read stays, for its mask alone."""
    source, output = node.inputs[0], node.outputs[0]
    if not any(other.uses() or other.is_graph_output() for other in node.outputs[1:]):
        replace_by_input(node, graph)
    elif source is not None and not output.is_graph_output():
        ir.convenience.replace_all_uses_with(output, source)


def _is_inference(dropout: ir.Node) -> bool:
    """`training_mode` is an input from opset 12 on; where it is computed, the op may drop numbers."""
    mode = dropout.inputs[2] if len(dropout.inputs) > 2 else None
    array = constant(mode)
    return mode is None or (array is not None and not array.any())


def _is_same_type(cast: ir.Node) -> bool:
    source = cast.inputs[0]
    return (
        source is not None and source.dtype is not None and source.dtype == cast.attributes.get_int("to", 0)
    )


def _is_same_order(transpose: ir.Node) -> bool:
    order = list(transpose.attributes.get_ints("perm", []))
    return bool(order) and order == sorted(order)


def _is_no_pad(pad: ir.Node) -> bool:
    pads = pad.attributes.get_ints("pads", []) if len(pad.inputs) == 1 else constant(pad.inputs[1])
    return pads is not None and len(pads) > 0 and not np.any(pads)


def _is_alone(node: ir.Node) -> bool:
    return len(node.inputs) == 1 and not _keeps_pad(node)


def _keeps_pad(node: ir.Node) -> bool:
    """Whether it is between a Pad and a pool, which ONNX Runtime would merge: `graph/kept_pads.py`."""
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    if onnx_op(before) == "Cast" and before is not None and before.inputs[0] is not None:
        before = before.inputs[0].producer()
    readers = [onnx_op(reader) for reader in node.outputs[0].consumers()]
    return onnx_op(before) == "Pad" and not POOLS.isdisjoint(readers)


_SAME: Mapping[str, Callable[[ir.Node], bool]] = {
    "Dropout": _is_inference,
    "Cast": _is_same_type,
    "Transpose": _is_same_order,
    "Pad": _is_no_pad,
    **dict.fromkeys(("Sum", "Concat", "Max", "Min", "Mean"), _is_alone),
}
