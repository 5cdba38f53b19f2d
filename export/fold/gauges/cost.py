"""What a fold may cost in accuracy, estimated from the BatchNorms' own statistics before anything is run."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from export.fold.batchnorm import BatchNorm
from export.fold.gauges.rules import LINEAR
from export.fold.gauges.system import Solution

LARGEST_CONDITION = 4.0
"""How many times a BatchNorm's own rounding its fold may add: the factor of the tolerance."""

TINY = 1e-300


def condition(node: ir.Node, norms: Mapping[ir.Node, BatchNorm], solution: Solution) -> float:
    """How many times the rounding of those who read a BatchNorm's input its fold may add.

    A tensor stored with an offset b is rounded by 2⁻²⁴ · |b| more.  A BatchNorm that reads it makes that |s
    · b|; its own arithmetic rounds 2⁻²⁴ of the larger of |s| · (|μ| + σ), its products, and |γ| + |β|, its
    sums. A linear op that reads it besides rounds 2⁻²⁴ of what it reads, |μ| + σ.
    """
    source, norm = node.inputs[0], norms[node]
    assert source is not None
    _, b = solution.along(source, 1, norm.scale.size)
    times = [float(np.abs(norm.scale * b).max()) / _rounded(norm)]
    for reader in source.consumers():
        if reader in norms:
            times.append(float(np.abs(norms[reader].scale * b).max()) / _rounded(norms[reader]))
        elif reader.op_type in LINEAR:
            times.append(float(np.abs(b).max()) / max(float(norm.inputs.max()), TINY))
    return max(times)


def _rounded(norm: BatchNorm) -> float:
    """The largest numbers that the BatchNorm's own arithmetic rounds."""
    return max(float((np.abs(norm.scale) * norm.inputs).max()), float(norm.outputs.max()), TINY)
