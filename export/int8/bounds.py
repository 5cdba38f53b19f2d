"""What a tensor cannot exceed, whatever the rows: 6σ of a normal may reach beyond it.

In: a folded graph, and the net's inputs.  Out: (low, high) by name.

A Relu's range must not begin below 0: the quantizer leaves the Relu out, and negative numbers would come
through.  A Conv that reads an input of a declared range:

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


def hard_bounds(model: ir.Model, specs: Sequence[TensorSpec]) -> Bounds:
    """Of the inputs, of each Conv that reads one, of each Relu and Clip, and of MaxPools after these."""
    found: Bounds = {
        spec.name: (spec.minimum, spec.maximum)
        for spec in specs
        if spec.minimum is not None and spec.maximum is not None
    }
    declared = set(found)
    for node in model.graph:
        source = node.inputs[0].name if node.inputs and node.inputs[0] is not None else None
        if source is None or not node.outputs:
            continue
        op_type, bounds = onnx_op(node), found.get(source)
        if op_type in ("Relu", "Clip") and (function := function_of(node)) is not None:
            low, high = (float(np.ravel(function(np.array(end)))[0]) for end in bounds or (-np.inf, np.inf))
            bounds = low, high
        elif bounds is not None and op_type != "MaxPool":
            bounds = _conv(node, *bounds) if source in declared else None
        if bounds is not None:
            found[str(node.outputs[0].name)] = bounds
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
