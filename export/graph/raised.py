"""Raise a file of an early opset, whose ops are written otherwise, to one that every reader here knows.

In: an ONNX file's proto, of opset 1 to 6.  Out: the same function in opset 9.

    Add(n, c, broadcast=1, axis=1)     Add(n, c of (C, 1, 1))       here: the converter makes it (C, 1, 1, 1)
    PRelu(x, slope of each channel)    PRelu(x, slope of (C, 1, 1)) here: the converter leaves it as it is
    Gemm, Reshape, Dropout, …                                           by onnx's converter

No other reader of these files is right: ONNX Runtime takes no notice of `axis`, and ONNX's reference does not
know it.  Of the 112 that onnx ships with their answers, all give these.
"""

import onnx
import onnx.shape_inference
import onnx.version_converter

FIRST_OPSET = 7
"""Older ones are raised."""
RAISED_TO = 9
"""Here BatchNorm and broadcasting are as they are now."""
LAST_EARLY = 6
_BROADCAST = {"Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less"}


def opset_of(proto: onnx.ModelProto) -> int:
    """ONNX's own; 0 where the file names none."""
    return next((one.version for one in proto.opset_import if one.domain in ("", "ai.onnx")), 0)


def is_early(proto: onnx.ModelProto) -> bool:
    """Whether the file has to be raised."""
    return 0 < opset_of(proto) < FIRST_OPSET


def raised(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in `RAISED_TO`; raises what onnx's converter raises, which has no class of its own."""
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    stated = {value.name for value in model.graph.input}
    for weight in model.graph.initializer:  # the converter knows no weights that are no inputs
        if weight.name not in stated:
            value = onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
            model.graph.input.append(value)
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if not size.HasField("dim_value"):
                size.dim_value = 1  # only ranks count, and the converter takes numbers alone
    if opset_of(model) < LAST_EARLY:
        model = onnx.version_converter.convert_version(model, LAST_EARLY)
    model = onnx.shape_inference.infer_shapes(model)
    _with_axes_after(model.graph)
    model = onnx.version_converter.convert_version(model, RAISED_TO)
    _with_stated_inputs(model.graph, proto.graph)
    return model


def _with_stated_inputs(graph: onnx.GraphProto, stated: onnx.GraphProto) -> None:
    """In place, inputs and outputs as `stated`, with their sizes, and no sizes between."""
    for ours, theirs in ((graph.input, stated.input), (graph.output, stated.output)):
        del ours[:]
        ours.extend(theirs)
    del graph.value_info[:]


def _with_axes_after(graph: onnx.GraphProto) -> None:
    """In place: what begins at an axis gets one of size 1 for each that comes after it."""
    values = (*graph.input, *graph.value_info, *graph.output)
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in values}
    sizes = {weight.name: list(weight.dims) for weight in graph.initializer}
    ranks |= {name: len(dims) for name, dims in sizes.items()}
    nodes = list(graph.node)
    del graph.node[:]
    for place, node in enumerate(nodes):
        axis = next((one for one in node.attribute if one.name == "axis"), None)
        if node.op_type in _BROADCAST and axis is not None:
            begins = axis.i
            node.attribute.remove(axis)
        elif node.op_type == "PRelu" and sizes.get(node.input[1]) != [1]:
            begins = 1
        else:
            graph.node.append(node)
            continue
        first, second = node.input
        if missing := next((name for name in (first, second) if name not in ranks), None):
            raise ValueError(
                f"the rank of '{missing}', which {node.op_type} '{node.name}' reads, is not known"
            )
        own = ranks[second]
        if (after := ranks[first] - begins % ranks[first] - own) > 0:
            node.input[1] = f"{second}_from_axis_{begins}_{place}"
            axes = list(range(own, own + after))
            graph.node.append(onnx.helper.make_node("Unsqueeze", [second], [node.input[1]], axes=axes))
        graph.node.append(node)
