"""What a fold may cost in accuracy, estimated from the BatchNorms' own statistics before anything is run."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from export.fold.batchnorm import BatchNorm
from export.fold.gauges.rules import LINEAR
from export.fold.gauges.system import FIXED, Solution, System

LARGEST_CONDITION = 4.0
"""How many times a BatchNorm's own rounding its fold may add: the factor of the tolerance."""

TINY = 1e-300


def amplification(graph: ir.Graph, norms: Mapping[ir.Node, BatchNorm], system: System) -> np.ndarray:
    """How much an offset of 1 on each id adds to the rounding of those who read it, float64 of shape (ids,).

    A tensor stored with an offset b is rounded by 2⁻²⁴ · |b| more.  A BatchNorm that reads it makes that
    |s · b|; its own arithmetic rounds 2⁻²⁴ of the larger of |s| · (|μ| + σ), its products, and |γ| + |β|, its
    sums.  A linear op that reads it besides rounds 2⁻²⁴ of what it reads, |μ| + σ.

    A reader need not be next to the BatchNorm: a Pool or Concat has its input's ids, and what comes out of an
    Add or Mul holds the rounding of what goes in.
    """
    amplified, read = np.zeros(system.size), np.zeros(system.size)
    for node, norm in norms.items():
        ids, gains = _ids_of(node, system), np.abs(norm.scale) / _rounded(norm)
        if ids.size in (1, gains.size):
            np.maximum.at(amplified, np.broadcast_to(ids, gains.shape), gains)
        np.maximum.at(read, ids, float(norm.inputs.max()))
    for node in graph:
        if node.op_type in LINEAR and (size := read[ids := _ids_of(node, system)].max(initial=0.0)) > 0:
            np.maximum.at(amplified, ids, 1 / size)
    for equation in reversed(
        system.equations
    ):  # readers come after what they read, and so do their equations
        if equation.offset is not None and len(equation.offset[0]) > 1:
            (out, _), *terms = equation.offset[0]
            for ids, coefficients in terms:
                np.maximum.at(amplified, ids, np.abs(coefficients) * amplified[out])
    amplified[FIXED] = 0.0
    return amplified


def condition(node: ir.Node, norm: BatchNorm, solution: Solution, amplified: np.ndarray) -> float:
    """How many times the rounding of those who read a BatchNorm's input, near or far, its fold may add."""
    ids = read_ids(node, norm, solution.system)
    return float((np.abs(solution.b[ids]) * amplified[ids]).max())


def read_ids(node: ir.Node, norm: BatchNorm, system: System) -> np.ndarray:
    """The ids of a BatchNorm's input, one for each channel."""
    return np.broadcast_to(_ids_of(node, system), norm.scale.shape)


def _ids_of(node: ir.Node, system: System) -> np.ndarray:
    return np.ravel(system.of(_source(node)))


def _source(node: ir.Node) -> ir.Value:
    source = node.inputs[0]
    assert source is not None
    return source


def _rounded(norm: BatchNorm) -> float:
    """The largest numbers that the BatchNorm's own arithmetic rounds."""
    return max(float((np.abs(norm.scale) * norm.inputs).max()), float(norm.outputs.max()), TINY)
