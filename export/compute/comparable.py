"""Why the answers of a graph cannot be compared with anything, if that can be told before it runs.

In: a graph.  Out: nothing, or a ProofError that names the node or the output, and what to do.
"""

import numpy as np
import onnx_ir as ir

from export.compute.rows import constant
from export.errors import ProofError

CUT = "cut the graph before it with onnx.utils.extract_model"
_RANDOM = {
    "RandomNormal",
    "RandomUniform",
    "RandomNormalLike",
    "RandomUniformLike",
    "Multinomial",
    "Bernoulli",
}
_COUNTING = {"NonMaxSuppression", "NonZero", "Unique", "Compress"}
EVAL = "export the net in eval mode"


def check_comparable(model: ir.Model) -> None:
    """Raise ProofError where two runs of one graph would differ, or answer something else than numbers."""
    for value in model.graph.outputs:
        kind = value.type
        if kind is not None and (not isinstance(kind, ir.TensorType) or kind.dtype == ir.DataType.STRING):
            raise ProofError(
                f"output '{value.name}' is {kind}, and only tensors of numbers can be compared: {CUT}"
            )
    for node in model.graph.all_nodes():
        if flag := _flag_of_dropout(node):
            raise ProofError(
                f"Dropout '{node.name}' draws random numbers where '{flag}' is true: --input-value {flag}=0"
            )
        if (node.domain in ("", "ai.onnx") and node.op_type in _RANDOM) or _drops_at_random(node):
            raise ProofError(
                f"{node.op_type} '{node.name}' draws random numbers, so that no two runs are alike: {EVAL}"
            )
    for graph in model.graphs():
        for name in graph.initializers:
            array = constant(graph.initializers[name])
            # A single NaN is a constant of a formula, as in Where(x == x, x, NaN).
            if array is not None and array.dtype.kind == "f" and array.size > 1 and np.isnan(array).any():
                raise ProofError(f"the weight '{name}' holds NaN, and so do the answers: train the net again")


def why_rows_depend(model: ir.Model) -> str:
    """What makes rows depend on each other, for the end of a sentence; nothing if that is not known."""
    for node in model.graph.all_nodes():
        if node.op_type in _COUNTING:
            return f"; {node.op_type} '{node.name}' answers as many numbers as it finds in all rows: {CUT}"
        if normalises_by_batch(node):
            return f"; BatchNorm '{node.name}' normalises by each batch: {EVAL}"
    return ""


def normalises_by_batch(node: ir.Node) -> bool:
    """Whether a BatchNormalization is in training form; before opset 14 its further outputs alone say so."""
    is_batchnorm = node.op_type == "BatchNormalization" and node.domain in ("", "ai.onnx")
    return is_batchnorm and (node.attributes.get_int("training_mode", 0) == 1 or len(node.outputs) > 1)


def _drops_at_random(node: ir.Node) -> bool:
    if node.op_type != "Dropout" or len(node.inputs) < 3:
        return False
    mode = constant(node.inputs[2])
    ratio = constant(node.inputs[1])
    return mode is not None and bool(mode.any()) and (ratio is None or bool(ratio.any()))


def _flag_of_dropout(node: ir.Node) -> str | None:
    """The input of the graph that lets a Dropout draw, if one does; as one of rows it is squeezed."""
    flag = node.inputs[2] if node.op_type == "Dropout" and len(node.inputs) > 2 else None
    while flag is not None and (producer := flag.producer()) is not None and producer.op_type == "Squeeze":
        flag = producer.inputs[0]
    return flag.name if flag is not None and flag.is_graph_input() else None
