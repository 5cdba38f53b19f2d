"""LSTM, GRU and RNN with constant weights take any gauge on their input's features, which they read linearly.

    every gate of direction d:   W_d · x + R_d · h + Wb_d + Rb_d          x' = a · (x + b)
    W'_d[g, i] = W_d[g, i] / a_i        Wb'_d = Wb_d − Σ W_d[g, i] · b_i

W is (directions, gates · H, I), B is (directions, 2 · gates · H): Wb, then Rb. Each step reads its own x, so
lengths and initial states change nothing. What comes out has passed tanh or the like, and takes no gauge.
"""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.absorb import affine_before, check
from export.fold.gauges.system import Solution, System
from export.fold.linear.weights import bias_or_zeros, write
from export.graph.edit import constant

INPUT, WEIGHT, RECURRENT, BIAS = 0, 1, 2, 3
FEATURES = 2  # of (steps, rows, features), and of (rows, steps, features) in the other layout


def constrain(node: ir.Node, system: System) -> bool:
    """Nothing is asked of the input's gauge; every other computed input stays what it is."""
    source, weight = node.inputs[INPUT], constant(node.inputs[WEIGHT])
    bias = node.inputs[BIAS] if len(node.inputs) > BIAS else None
    if source is None or weight is None or weight.ndim != 3 or (bias is not None and constant(bias) is None):
        return False
    given = system.narrow(source, FEATURES, node)
    if given is None or given.ndim != 3:
        return False
    for value in node.inputs[RECURRENT:]:
        if value is not None and constant(value) is None:
            says = f"{node.op_type} '{node.name}' needs its state as it is"
            system.fix(system.of(value), says)
    return True


def absorb(node: ir.Node, solution: Solution) -> None:
    """Write the gauge of the input into W, and its shift into the first half of B."""
    weight = constant(node.inputs[WEIGHT])
    assert weight is not None
    directions, gates, features = weight.shape
    before = affine_before(solution, node, FEATURES, features)
    bias = bias_or_zeros(node, BIAS, directions * 2 * gates)
    assert isinstance(bias, np.ndarray)
    bias = bias.reshape(directions, 2, gates).copy()
    bias[:, 0] += weight.astype(np.float64) @ before.shift
    check(write(node, {WEIGHT: weight * before.scale, BIAS: bias.reshape(directions, 2 * gates)}))
