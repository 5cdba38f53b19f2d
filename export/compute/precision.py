"""A graph recast: its weights, constants and casts in another float type.

In: a graph.  Out: a copy in float64, for the truth; or a bfloat16 or float64 net in float32, for ONNX
Runtime, which has no convolution in either.  Clients go on to send float64; bfloat16 becomes float32:

    x (float64) → Cast → the graph, each weight rounded to float32 → Cast → y (float64)
"""

from collections.abc import Set

import numpy as np
import onnx_ir as ir

DOUBLE, FLOAT = ir.DataType.DOUBLE, ir.DataType.FLOAT
_NARROW = frozenset({FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


def in_float64(model: ir.Model) -> ir.Model:
    """A copy of the graph in which every narrower float is a float64, inputs, casts and constants too."""
    return _recast(model, _NARROW, DOUBLE)


def computes_in_float64(model: ir.Model) -> bool:
    """Whether a weight is in float64."""
    return any(value.dtype == DOUBLE for graph in model.graphs() for value in graph.initializers.values())


def in_float32(model: ir.Model) -> ir.Model:
    """A copy that computes in float32 what `model` computes in float64; inputs and outputs stay float64."""
    types = [[value.dtype for value in values] for values in (model.graph.inputs, model.graph.outputs)]
    model = _recast(model, {DOUBLE}, FLOAT)
    graph = model.graph
    for value, dtype in zip(list(graph.inputs), types[0], strict=True):
        if dtype == DOUBLE:
            cast = _cast(value, FLOAT)
            ir.convenience.replace_all_uses_with(value, cast.outputs[0], replace_graph_outputs=True)
            cast.replace_input_with(0, value)
            value.type = ir.TensorType(DOUBLE)
            graph.insert_before(graph[0], cast)
    for index, (value, dtype) in enumerate(zip(list(graph.outputs), types[1], strict=True)):
        if dtype == DOUBLE:
            cast = _cast(value, DOUBLE)
            graph.append(cast)
            graph.outputs[index] = cast.outputs[0]
            cast.outputs[0].name, value.name = value.name, f"{value.name}_float"
    return model


def from_bfloat16(model: ir.Model) -> ir.Model:
    """A copy that computes in float32 what `model` computes in bfloat16, inputs and outputs too.

    Each weight is the same number; only what is computed is no longer rounded to 8 bits.
    """
    return _recast(model, {ir.DataType.BFLOAT16}, FLOAT)


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{value.name}_cast")
    output = cast.outputs[0]
    output.name, output.shape, output.type = f"{value.name}_cast", value.shape, ir.TensorType(dtype)
    return cast


def _recast(model: ir.Model, from_types: Set[ir.DataType], to: ir.DataType) -> ir.Model:
    model = model.clone()
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    for value in values:
        if value.dtype in from_types and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(to.numpy()), name=value.name)
    for node in model.graph.all_nodes():
        _recast_attributes(node, from_types, to)
        for output in node.outputs:
            if not output.is_graph_output():
                output.type, output.shape = None, None
    for graph in model.graphs():  # a branch of If, or the body of a Loop, has weights and outputs of its own
        values += [*graph.inputs, *graph.outputs]
    for value in values:
        if value.dtype in from_types:
            value.type = ir.TensorType(to)  # a new one: clones share theirs
    return model


def _recast_attributes(node: ir.Node, from_types: Set[ir.DataType], to: ir.DataType) -> None:
    for name, attribute in list(node.attributes.items()):
        if name in ("to", "dtype") and attribute.type == ir.AttributeType.INT:
            if ir.DataType(attribute.as_int()) in from_types:
                node.attributes[name] = ir.AttrInt64(name, int(to))
        elif attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if tensor.dtype in from_types:
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(tensor.numpy().astype(to.numpy())))
        elif to == DOUBLE and node.op_type == "Constant" and name in ("value_float", "value_floats"):
            exact = ir.tensor(np.asarray(attribute.value, dtype=np.float64))
            del node.attributes[name]
            node.attributes["value"] = ir.AttrTensor("value", exact)
