"""Golden int8 answers, and how near another device must come to them.

In: int8.onnx and the golden rows.  Out: its answers, and a tolerance for each output.

    fused_difference = max |with ONNX Runtime's optimisations − without any|
    step             = how far the output moves if one number of the last int8 tensor moves by a level
    tolerance        = 4 · fused_difference + step + 4 · 2⁻²³ · max |answer|

Without its optimisations ONNX Runtime computes DequantizeLinear → Conv → QuantizeLinear in float32, with
them in integers.  Numbers near the middle of two levels are then rounded one way or the other, as they may
be on another CPU.
"""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import numpy_helper

from export.compute.runtime import load
from export.errors import Int8Error
from export.int8.quantize import rounded_weights
from service.contract.bundle import Golden
from service.contract.parity import BUCKETS, difference, in_batches, measure
from service.contract.tolerances import Int8Tolerance, int8_tolerance

Arrays = Mapping[str, np.ndarray]


def golden_answers(
    int8: onnx.ModelProto, inputs: Arrays, max_rows: int | None
) -> tuple[dict[str, np.ndarray], dict[str, Int8Tolerance]]:
    """The answers, and the tolerances; raises Int8Error if they depend on how rows are batched."""
    graph = int8.SerializeToString()
    fused = load(graph, optimised=True)
    answers = dict(in_batches(fused, inputs, max_rows))
    plain = in_batches(load(graph, optimised=False), inputs, max_rows)
    tolerances = {}
    for name, array in answers.items():
        measured = {
            "fused_difference": difference(plain[name], array.astype(np.float64)),
            "step": last_step(int8, name),
            "output_range": float(np.abs(array).max(initial=0.0)),
        }
        if not np.isfinite(list(measured.values())).all():
            raise Int8Error(f"the int8 graph's answers of '{name}' are not finite: nothing was written")
        tolerances[name] = Int8Tolerance(max_abs=int8_tolerance(**measured), **measured)
    golden = Golden(
        inputs=inputs, outputs={name: array.astype(np.float64) for name, array in answers.items()}
    )
    if excess := measure(fused, golden, BUCKETS, max_rows).excess(tolerances):
        raise Int8Error(f"the int8 graph's answers depend on how rows are batched: {excess}")
    return answers, tolerances


def last_step(int8: onnx.ModelProto, output: str) -> float:
    """How far an output moves when one number of the last int8 tensor moves by one level.

    Ops between the two, such as Softmax or an average, are taken not to make it larger.
    """
    producers = {name: node for node in int8.graph.node for name in node.output}
    arrays = {tensor.name: tensor for tensor in int8.graph.initializer}
    weights = {f"{name}_DequantizeLinear_Output": array for name, array in rounded_weights(int8).items()}
    name, factor = output, 1.0
    for _ in range(len(int8.graph.node)):
        node = producers.get(name)
        if node is None or not node.input:
            return 0.0
        if node.op_type == "DequantizeLinear":
            scale = arrays.get(node.input[1])
            return 0.0 if scale is None else factor * float(numpy_helper.to_array(scale).max())
        if len(node.input) > 1 and node.op_type in ("Gemm", "MatMul", "Conv"):
            weight = weights.get(node.input[1])
            if weight is None and node.input[1] in arrays:
                weight = numpy_helper.to_array(arrays[node.input[1]])
            factor *= 0.0 if weight is None else float(np.abs(weight).max())
        name = next((source for source in node.input if source not in arrays), "")
    return 0.0
