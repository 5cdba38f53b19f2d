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
    for graph in graphs_of(proto.graph):
        graph.initializer.extend(_dense(sparse) for sparse in graph.sparse_initializer)
        del graph.sparse_initializer[:]
        for node in graph.node:
            _make_constant_dense(node)
    for function in proto.functions:
        for node in function.node:
            _make_constant_dense(node)


def _make_constant_dense(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.SPARSE_TENSOR and node.op_type == "Constant":
            tensor = _dense(attribute.sparse_tensor)
            attribute.ClearField("sparse_tensor")
            attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
            attribute.t.CopyFrom(tensor)


def graphs_of(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
            for one in inner:
                yield from graphs_of(one)


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    array = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 1:
        array.ravel()[indices] = values
    else:
        array[tuple(indices.T)] = values
    return numpy_helper.from_array(array, sparse.values.name)
