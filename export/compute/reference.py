"""What a graph computes in float64, by ONNX's reference implementation (NumPy): the truth of an ONNX file.

In: a graph and rows.  Out: answers in float64.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from export.compute.operators import OPERATORS
from export.errors import ProofError
from service.contract.text import first_line

Arrays = dict[str, np.ndarray]
Evaluate = Callable[[Mapping[str, np.ndarray]], Arrays]
"""Rows of every input, by name, to the answers of every output, by name, in float64."""

_NARROW = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def reference(model: ir.Model) -> ReferenceEvaluator:
    """An evaluator of the graph as it stands, in the precision of its own tensors."""
    return ReferenceEvaluator(ir.to_proto(model), new_ops=list(OPERATORS))


def graph_evaluator(model: ir.Model) -> Evaluate:
    """A function that runs a float64 copy of the graph; it raises ProofError where an operator fails."""
    try:
        evaluator = reference(in_float64(model))
    except RuntimeError as error:  # the reference has no such operator, or does not know its domain
        raise ProofError(f"the unfolded graph cannot be computed in float64: {first_line(error)}") from error
    names = [value.name or "" for value in model.graph.outputs]

    def evaluate(inputs: Mapping[str, np.ndarray]) -> Arrays:
        wide = {name: _widened(array) for name, array in inputs.items()}
        try:
            with np.errstate(all="ignore"):  # an answer that is not finite is refused by the proof, in words
                answers = evaluator.run(None, wide)
        except Exception as error:  # NumPy, onnx and missing operators each raise their own
            raise ProofError(
                f"the unfolded graph cannot be computed in float64: {first_line(error)}"
            ) from error
        return {
            name: np.asarray(answer).astype(np.float64) for name, answer in zip(names, answers, strict=True)
        }

    return evaluate


def in_float64(model: ir.Model) -> ir.Model:
    """A copy of the graph in which every narrower float is a float64, casts and constants too."""
    model = model.clone()
    values = [value for graph in model.graphs() for value in graph.initializers.values()]
    for value in values:
        if value.dtype in _NARROW and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float64), name=value.name)
    for node in model.graph.all_nodes():
        _widen_attributes(node)
        for output in node.outputs:
            if not output.is_graph_output():
                output.type, output.shape = None, None
    for graph in model.graphs():  # a branch of If, or the body of a Loop, has weights and outputs of its own
        values += [*graph.inputs, *graph.outputs]
    for value in values:
        if value.dtype in _NARROW:
            value.type = ir.TensorType(ir.DataType.DOUBLE)  # a new one: clones share theirs
    return model


def _widen_attributes(node: ir.Node) -> None:
    for name, attribute in list(node.attributes.items()):
        if name in ("to", "dtype") and attribute.type == ir.AttributeType.INT:
            if ir.DataType(attribute.as_int()) in _NARROW:
                node.attributes[name] = ir.AttrInt64(name, onnx.TensorProto.DOUBLE)
        elif attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
            if tensor.dtype in _NARROW:
                node.attributes[name] = ir.AttrTensor(name, ir.tensor(tensor.numpy().astype(np.float64)))
        elif node.op_type == "Constant" and name in ("value_float", "value_floats"):
            exact = ir.tensor(np.asarray(attribute.value, dtype=np.float64))
            del node.attributes[name]
            node.attributes["value"] = ir.AttrTensor("value", exact)


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array
