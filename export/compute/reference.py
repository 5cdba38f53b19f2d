"""What a graph computes in float64, by ONNX's reference implementation (NumPy): the truth of an ONNX file.

In: a graph and rows.  Out: answers in float64.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from export.compute.operators import OPERATORS
from export.compute.precision import in_float64
from export.errors import ProofError
from service.contract.text import first_line

Arrays = dict[str, np.ndarray]
Evaluate = Callable[[Mapping[str, np.ndarray]], Arrays]
"""Rows of every input, by name, to the answers of every output, by name, in float64."""


class _Evaluator(ReferenceEvaluator):
    """ONNX's evaluator, but each tensor is forgotten after its last reader.

    It keeps all of them to the end: at 32 rows of a ResNet-50, 8 GB.
    """

    def run(self, output_names: Any, feed_inputs: dict[str, Any], *others: Any, **named: Any) -> Any:
        nodes = self.rt_nodes_
        if output_names is not None or others or named or any(node.need_context() for node in nodes):
            # A branch of If reads tensors that its node does not name.
            return super().run(output_names, feed_inputs, *others, **named)
        last = {name: index for index, node in enumerate(nodes) for name in node.input}
        last |= dict.fromkeys([*self.output_names, *self.rt_inits_, ""], len(nodes))
        results: dict[str, Any] = {"": None, **self.rt_inits_, **feed_inputs}
        for index, node in enumerate(nodes):
            results.update(zip(node.output, node.run(*map(results.__getitem__, node.input)), strict=False))
            for name in {*node.input, *node.output}:
                if last.get(name, index) == index:
                    del results[name]
        return [results[name] for name in self.output_names]


def reference(model: ir.Model) -> ReferenceEvaluator:
    """An evaluator of the graph as it stands, in the precision of its own tensors."""
    return _Evaluator(ir.to_proto(model), new_ops=list(OPERATORS))


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


def _widened(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array
