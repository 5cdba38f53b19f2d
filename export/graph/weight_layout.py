"""Store weights that are integers with a scale in the order in which their op reads them.

In: a graph whose constants are initialisers.  Out: the same one, in place.

    DequantizeLinear(q, d, z), axis → Transpose, perm      becomes      DequantizeLinear(qᵀ, d, z), axis'

axis' is the place of axis in perm: d and z are one number, or one for each place of that axis.  The weights
are the same, bit for bit.

So TensorFlow's exporters write weights: (O, H, W, I) as integers, transposed at run time.  Then nothing is
left between an op and the scale that a BatchNorm folds into.
"""

import numpy as np
import onnx_ir as ir

from export.graph.edit import add_initializer, constant, onnx_op

_WEIGHED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
FIRST_WITH_AXIS = 13


def lay_out_weights(model: ir.Model) -> None:
    """Move each Transpose of such weights into their integers; other readers of these keep the old ones."""
    for graph in model.graphs():
        for node in list(graph):
            if _transposes_weights(node):
                _store_transposed(node, graph, model.opset_imports.get("", 0))


def _transposes_weights(node: ir.Node) -> bool:
    """Whether what it makes is read as weights, and as nothing else."""
    if onnx_op(node) != "Transpose" or node.outputs[0].is_graph_output():
        return False
    uses = node.outputs[0].uses()
    return bool(uses) and all(index == 1 and onnx_op(reader) in _WEIGHED for reader, index in uses)


def _store_transposed(transpose: ir.Node, graph: ir.Graph, opset: int) -> None:
    source = transpose.inputs[0].producer() if transpose.inputs[0] is not None else None
    if source is None or onnx_op(source) != "DequantizeLinear" or source.graph is not graph:
        return
    arrays = [array for value in source.inputs if (array := constant(value)) is not None]
    if len(arrays) < len(source.inputs) or source.attributes.get_int("block_size", 0) > 0:
        return
    integers, scale, *_ = arrays
    if any(array.ndim > 1 for array in arrays[1:]):
        return
    rank, axis = integers.ndim, source.attributes.get_int("axis", 1)
    perm = [int(place) for place in transpose.attributes.get_ints("perm", tuple(reversed(range(rank))))]
    if sorted(perm) != list(range(rank)):
        return
    attributes = dict(source.attributes)
    if scale.ndim == 1 and opset >= FIRST_WITH_AXIS:
        if not -rank <= axis < rank:
            return
        attributes["axis"] = ir.AttrInt64("axis", perm.index(axis % rank))
    moved = np.ascontiguousarray(integers.transpose(perm))
    inputs = [add_initializer(graph, f"{transpose.name}.integers", moved), *source.inputs[1:]]
    stored = ir.Node("", "DequantizeLinear", inputs, attributes.values(), num_outputs=1, name=transpose.name)
    old, new = transpose.outputs[0], stored.outputs[0]
    name, new.shape, new.type = old.name, old.shape, old.type
    graph.insert_after(transpose, stored)
    ir.convenience.replace_all_uses_with(old, new)
    graph.remove(transpose, safe=True)
    new.name = name
