"""Put tensors in place of the maps that a file answers with.

In: an ONNX file's proto.  Out: another whose ZipMaps are gone.

    probabilities (N, C) → ZipMap → [{label: probability}, …]        becomes        probabilities (N, C)

scikit-learn's converters end every classifier so at their defaults. Columns are in the order of its labels.
No client could send for a map, and the graph's own types know none.
"""

import onnx
from onnx import helper

_ML = "ai.onnx.ml"
_LABELS = ("classlabels_int64s", "classlabels_strings")


def has_maps(proto: onnx.ModelProto) -> bool:
    """Whether a ZipMap makes one of the outputs."""
    return any(node.domain == _ML and node.op_type == "ZipMap" for node in proto.graph.node)


def without_maps(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which each ZipMap is an Identity, and its output a tensor (rows, labels)."""
    proto = onnx.ModelProto.FromString(proto.SerializeToString())
    outputs = {value.name: value for value in proto.graph.output}
    for node in proto.graph.node:
        if node.domain != _ML or node.op_type != "ZipMap":
            continue
        labels = [len(helper.get_attribute_value(one)) for one in node.attribute if one.name in _LABELS]
        if (value := outputs.get(node.output[0])) is not None:
            shape = [None, max(labels, default=0) or None]
            tensor = helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shape)
            value.CopyFrom(tensor)
        node.CopyFrom(helper.make_node("Identity", list(node.input), list(node.output), name=node.name))
    return proto
