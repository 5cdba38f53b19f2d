"""ONNX's own shape inference, mended where it states of a tensor what is not so.

In: an ir.Model.  Out: the same, with the shapes and types that inference finds; what it does not find stays.
"""

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes
from google.protobuf.message import EncodeError

from export.graph.edit import constant, onnx_op

_MAKE_NO_TENSOR = {
    "Optional",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceMap",
    "SplitToSequence",
}


def infer(model: ir.Model) -> None:
    """In place, in branches and bodies too."""
    made = [output for graph in model.graphs() for node in graph for output in node.outputs]
    untyped = {output for output in made if output.type is None}
    unsized = {output for output in made if output.shape is None}
    _state_defaults(model)
    passes.ShapeInferencePass()(model)
    if parts := _sized_parts(model):
        for output in unsized - parts:  # they may come from a part that was sized wrongly
            output.shape = None
        passes.ShapeInferencePass()(model)
    if untyped and _has_sequences(model):
        _correct_types(model, untyped)


def _has_sequences(model: ir.Model) -> bool:
    """Whether any value may be no tensor: to find out which takes an inference more."""
    is_given = any(value.type and not isinstance(value.type, ir.TensorType) for value in model.graph.inputs)
    return is_given or any(onnx_op(node) in _MAKE_NO_TENSOR for node in model.graph.all_nodes())


def _state_defaults(model: ir.Model) -> None:
    """STFT leaves out half of the frequencies unless it is told otherwise; inference counts all of them."""
    for node in model.graph.all_nodes():
        if onnx_op(node) == "STFT" and "onesided" not in node.attributes:
            node.attributes["onesided"] = ir.AttrInt64("onesided", 1)


def _sized_parts(model: ir.Model) -> set[ir.Value]:
    """Write the sizes of a Split's parts that it states itself; returns the parts whose shape changed.

    Where the size of the whole is unknown, inference gives all parts one name, which says that they are of
    one size; ONNX Runtime then puts a part of 32 where one of 16 was.
    """
    changed = set()
    for node in model.graph.all_nodes():
        if onnx_op(node) != "Split":
            continue
        stated = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_ints("split", ())
        for output, size in zip(node.outputs, () if stated is None else stated, strict=False):
            if output.shape is None:
                continue
            sizes = list(output.shape)
            axis = node.attributes.get_int("axis", 0) % len(sizes)
            if sizes[axis] != int(size) and not output.is_graph_output():
                sizes[axis] = int(size)
                output.shape = ir.Shape(sizes)
                changed.add(output)
    return changed


def _correct_types(model: ir.Model, untyped: set[ir.Value]) -> None:
    """Give sequences their type: onnx_ir's pass makes a tensor of each value that had no type before.

    ONNX Runtime refuses a graph that states such a type.
    """
    for value in untyped:
        value.type = None
    try:
        inferred = ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(model)))
    except (ValueError, EncodeError):  # over 2 GB: without types ONNX Runtime finds them itself
        inferred = None
    found = zip(model.graphs(), inferred.graphs(), strict=True) if inferred is not None else ()
    for graph, twin in found:
        types = {output.name: output.type for node in twin for output in node.outputs}
        for node in graph:
            for output in untyped.intersection(node.outputs):
                output.type = types.get(output.name)
    for value in untyped:
        if value.type is None:
            value.shape = None  # a shape alone would be written as a tensor's
