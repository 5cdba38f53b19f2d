"""What a graph computes in float64, by ONNX's reference implementation (NumPy): the truth of an ONNX file.

In: a graph and rows.  Out: answers in float64.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from export.compute.precision import in_float64
from export.errors import ProofError
from service.contract.text import first_line

if TYPE_CHECKING:  # see `reference`
    from export.compute.evaluator import Evaluator

# By the first opset at which ONNX's reference computes them as ONNX Runtime does.  The probabilities of an
# SVMClassifier are those of an iteration, up to 0.05 apart; RoiAlign moved by half a pixel in opset 16.
_ALIKE_FROM = {"SVMClassifier": 1 << 16, "RoiAlign": 16}
Arrays = dict[str, np.ndarray]
Evaluate = Callable[[Mapping[str, np.ndarray]], Arrays]
"""Rows of every input, by name, to the answers of every output, by name, in float64."""


def reference(model: ir.Model) -> "Evaluator":
    """An evaluator of the graph as it stands, in the precision of its own tensors."""
    # Imported here: it takes as long as a small file does, and one with nothing to fold is never computed.
    from export.compute.evaluator import Evaluator
    from export.compute.operators import OPERATORS

    return Evaluator(ir.to_proto(model), new_ops=list(OPERATORS))


def graph_evaluator(model: ir.Model) -> Evaluate:
    """A function that runs a float64 copy of the graph; it raises ProofError where an operator fails."""
    for node in model.graph.all_nodes():
        if model.opset_imports.get("", 0) < _ALIKE_FROM.get(node.op_type, 0) or _is_unlike_classifier(node):
            raise ProofError(
                f"the unfolded graph cannot be computed in float64: ONNX's reference computes {node.op_type} "
                f"'{node.name}' otherwise than ONNX Runtime does"
            )
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


def _is_unlike_classifier(node: ir.Node) -> bool:
    """Whether ONNX Runtime answers two classes by rules of its own, or ONNX's reference (1.23) is wrong.

    Where each leaf or row of coefficients is of one class, the other's score is made up of it.
    """
    attributes = node.attributes
    labels = [name for name in attributes if name.startswith("classlabels_")]
    num_classes = sum(len(attributes[name].value) for name in labels)
    transform = attributes.get_string("post_transform", "NONE")
    if node.op_type == "TreeEnsembleClassifier":
        return num_classes <= 2
    if node.op_type == "LinearClassifier":
        is_of_one = len(attributes.get_floats("intercepts", ())) == 1 and transform != "LOGISTIC"
        return is_of_one or transform == "PROBIT"
    return node.op_type == "Normalizer" and attributes.get_string("norm", "MAX") == "MAX"


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array
