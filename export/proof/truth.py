"""The truth that every proof is measured against: the unfolded net, computed in float64.

In: a net or an unfolded graph, and the golden inputs.  Out: answers in float64.

A net runs in torch.  An ONNX file has no net, so its own unfolded graph runs in ONNX's reference
implementation (NumPy), with every float32 and float16 tensor made float64.
"""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from export.errors import ProofError
from export.proof.reference import reference
from service.contract.parity import difference
from service.contract.text import first_line

NET_TRUTH = "the unfolded net in torch, float64"
GRAPH_TRUTH = "the unfolded graph in ONNX's reference implementation, float64"

INDEPENDENT = 1e-8
"""Largest relative difference between a row alone and in a batch, in float64.

float32 noise over a zoo of nets reaches 5e-2 of the output range, that is 2⁻²⁴ made
larger about 10⁶ times; float64's 2⁻⁵³ made larger as much stays near 1e-10.
"""

Arrays = dict[str, np.ndarray]
Evaluate = Callable[[Mapping[str, np.ndarray]], Arrays]
_NARROW = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def true_answers(
    evaluate: Evaluate, inputs: Mapping[str, np.ndarray], show: Callable[[int], None] = lambda row: None
) -> Arrays:
    """Answers row by row; raises ProofError if a row's answer depends on its neighbours in the batch.

    `show` is told how many rows are done.
    """
    rows = []
    for row in range(len(next(iter(inputs.values())))):
        rows.append(evaluate({name: array[row : row + 1] for name, array in inputs.items()}))
        show(row + 1)
    answers = {name: np.concatenate([answer[name] for answer in rows]) for name in rows[0]}
    for name, together in evaluate(inputs).items():
        limit = INDEPENDENT * float(np.abs(answers[name]).max(initial=0.0))
        if (apart := difference(together, answers[name])) > limit:
            raise ProofError(
                f"rows are not independent: in one batch, answers of '{name}' differ by {apart:.3g} "
                "from those of the same rows alone, in float64"
            )
    return answers


def net_evaluator(net: nn.Module, output_names: list[str]) -> Evaluate:
    """A float64 copy of the net; the net itself stays as it is."""
    exact = copy.deepcopy(net).double().eval().cpu()

    def evaluate(inputs: Mapping[str, np.ndarray]) -> Arrays:
        rows = [torch.from_numpy(array).double() for array in inputs.values()]
        with torch.no_grad():
            try:
                answer = exact(*rows)
            except Exception as error:  # the user's own forward
                raise ProofError(f"the net does not run in float64: {first_line(error)}") from error
        tensors = answer if isinstance(answer, list | tuple) else [answer]
        return {
            name: tensor.detach().double().numpy() for name, tensor in zip(output_names, tensors, strict=True)
        }

    return evaluate


def graph_evaluator(model: ir.Model) -> Evaluate:
    """A float64 copy of the graph."""
    try:
        evaluator = reference(in_float64(model))
    except RuntimeError as error:  # the reference has no such operator, or does not know its domain
        raise ProofError(f"the unfolded graph cannot be computed in float64: {first_line(error)}") from error
    names = [value.name or "" for value in model.graph.outputs]

    def evaluate(inputs: Mapping[str, np.ndarray]) -> Arrays:
        wide = {name: _widened(array) for name, array in inputs.items()}
        try:
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
    for value in model.graph.initializers.values():
        if value.dtype in _NARROW and value.const_value is not None:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float64), name=value.name)
    for node in model.graph.all_nodes():
        _widen_attributes(node)
        for output in node.outputs:
            if not output.is_graph_output():
                output.type, output.shape = None, None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
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
