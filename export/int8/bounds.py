"""What the first Convs can put out at all, by the declared range of what they read.

In: a folded graph, and the net's inputs.  Out: (low, high) by name; statistics may reach beyond it.

    low[o] = bias[o] + Σ min(W · low, W · high)[o, i, k]          0 is in every range: a Conv pads with it

Of rows with few taps this is much nearer than 6σ.  Of a Conv that reads another one it would be of no use.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.graph.edit import constant, onnx_op
from export.int8.functions import function_of
from service.contract.tensors import TensorSpec

Bounds = dict[str, tuple[float, float]]


def first_bounds(model: ir.Model, specs: Sequence[TensorSpec]) -> Bounds:
    """Of the inputs, of each Conv that reads one, and of what Relu, Clip and pools make of these."""
    found: Bounds = {
        spec.name: (spec.minimum, spec.maximum)
        for spec in specs
        if spec.minimum is not None and spec.maximum is not None
    }
    convs: set[str] = set()
    for node in model.graph:
        source = node.inputs[0].name if node.inputs and node.inputs[0] is not None else None
        if source is None or source not in found or not node.outputs:
            continue
        bounds = _conv(node, *found[source]) if source not in convs else None
        function = function_of(node)
        if bounds is None and onnx_op(node) == "MaxPool":
            bounds = found[source]
        elif bounds is None and function is not None and onnx_op(node) in ("Relu", "Clip", "LeakyRelu"):
            low, high = (float(np.ravel(function(np.array(end)))[0]) for end in found[source])
            bounds = low, high
        if bounds is not None:
            found[str(node.outputs[0].name)] = bounds
            convs.add(str(node.outputs[0].name))
    return found


def _conv(node: ir.Node, low: float, high: float) -> tuple[float, float] | None:
    weight = constant(node.inputs[1]) if onnx_op(node) == "Conv" else None
    bias = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
    if weight is None or bias is None:
        return None
    low, high = min(low, 0.0), max(high, 0.0)
    taps = weight.reshape(len(weight), -1).astype(np.float64)
    lows, highs = (
        bias + np.maximum(taps, 0).sum(axis=1) * above + np.minimum(taps, 0).sum(axis=1) * below
        for above, below in ((low, high), (high, low))
    )
    return float(lows.min()), float(highs.max())
