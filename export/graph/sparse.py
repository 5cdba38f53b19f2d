"""Write sparse weights as dense ones, which `ir` knows no others of.

In: an ONNX file's proto.  Out: the same, in place.

    values (k), indices (k) or (k, rank), dims      becomes      a tensor of these dims, 0 elsewhere

Pruned nets are stored so: as `sparse_initializer`, or as a Constant's `sparse_value`.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper


def make_dense(proto: onnx.ModelProto) -> None:
    """In place, in branches and bodies too."""
    for part in parts_of(proto):
        if isinstance(part, onnx.GraphProto):
            part.initializer.extend(_dense(sparse) for sparse in part.sparse_initializer)
            del part.sparse_initializer[:]
        for node in part.node:
            _make_constant_dense(node)


def _make_constant_dense(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.SPARSE_TENSOR and node.op_type == "Constant":
            tensor = _dense(attribute.sparse_tensor)
            attribute.ClearField("sparse_tensor")
            attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
            attribute.t.CopyFrom(tensor)


def parts_of(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """The graph, the functions, and the branches and bodies within."""
    waiting: list[onnx.GraphProto | onnx.FunctionProto] = [proto.graph, *proto.functions]
    while waiting:
        part = waiting.pop()
        yield part
        for attribute in (one for node in part.node for one in node.attribute):
            waiting += [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    array = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        array.ravel()[indices] = values
    else:
        array[tuple(indices.T)] = values
    return numpy_helper.from_array(array, sparse.values.name)
