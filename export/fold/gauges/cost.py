"""What a fold may cost in accuracy, estimated from the BatchNorms' own statistics before anything is run."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from export.fold.batchnorm import BatchNorm
from export.fold.gauges.rules import LINEAR
from export.fold.gauges.system import FIXED, Equation, Solution, System

LARGEST_CONDITION = 4.0
"""How many times a BatchNorm's own rounding its fold may add: the factor of the tolerance."""

TINY = 1e-300


def amplification(graph: ir.Graph, norms: Mapping[ir.Node, BatchNorm], system: System) -> np.ndarray:
    """How much an offset of 1 on each id adds to the rounding of those who read it, float64 of shape (ids,).

    A tensor stored with an offset b is rounded by 2⁻²⁴ · |b| more.  A BatchNorm that reads it makes that
    |s · b|; its own arithmetic rounds 2⁻²⁴ of the larger of |s| · (|μ| + σ), its products, and |γ| + |β|, its
    sums.  A linear op that reads it besides rounds 2⁻²⁴ of what it reads.  What it reads is rounded already:
    by 2⁻²⁴ · (|μ| + σ) where a BatchNorm reads it too, and by all that a BatchNorm rounds where that made it.

    A reader need not be next to the BatchNorm: a Pool or Concat has its input's ids, and what comes out of an
    Add or Mul holds the rounding of what goes in.
    """
    amplified, rounded = np.zeros(system.size), _rounded_before(norms, system)
    for node, norm in norms.items():
        ids, gains = _ids_of(node, system), np.abs(norm.scale) / _rounded(norm)
        if ids.size in (1, gains.size):
            np.maximum.at(amplified, np.broadcast_to(ids, gains.shape), gains)
    for node in graph:
        if node.op_type in LINEAR and (size := rounded[ids := _ids_of(node, system)].max(initial=0.0)) > 0:
            np.maximum.at(amplified, ids, 1 / size)
    # Readers come after what they read, and so do their equations.
    for equation in reversed(system.equations):
        for out, ids, factor in _flows(equation):
            np.maximum.at(amplified, ids, factor * amplified[out])
    amplified[FIXED] = 0.0
    return amplified


def _rounded_before(norms: Mapping[ir.Node, BatchNorm], system: System) -> np.ndarray:
    """How large the numbers are whose rounding a tensor holds before any fold, by id; 0 where not known."""
    rounded = np.zeros(system.size)
    for node, norm in norms.items():
        np.maximum.at(rounded, _ids_of(node, system), float(norm.inputs.max()))
        np.maximum.at(rounded, np.ravel(system.of(node.outputs[0])), _rounded(norm))
    for equation in system.equations:
        for out, ids, factor in _flows(equation):
            np.maximum.at(rounded, out, factor * rounded[ids])
    rounded[FIXED] = 0.0
    return rounded


def _flows(equation: Equation) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(after an op, before it, factor): by what the rounding of a tensor is made larger on its way."""
    if equation.offset is not None and len(equation.offset[0]) > 1:
        (out, _), *terms = equation.offset[0]
        yield from ((out, ids, np.abs(coefficients)) for ids, coefficients in terms)
    elif equation.carries and equation.magnitude is not None:
        # An Add of a constant takes any offset off, but not the rounding that it left.
        yield equation.magnitude.first, equation.magnitude.second, equation.magnitude.factor


def condition(node: ir.Node, norm: BatchNorm, solution: Solution, amplified: np.ndarray) -> float:
    """How many times the rounding of those who read a BatchNorm's input or output its fold may add.

    They may be near or far.  Where an offset is moved from its input to its output, its output's readers pay.
    """
    return max(cost_at(value, norm, solution.b, solution.system, amplified) for value in sides_of(node))


def cost_at(
    value: ir.Value, norm: BatchNorm, offsets: np.ndarray, system: System, amplified: np.ndarray
) -> float:
    """How many times the rounding of those who read `value` its offsets add; they are by id, shape (ids,).

    `value` is the input or the output of the BatchNorm.
    """
    ids = np.broadcast_to(np.ravel(system.of(value)), norm.scale.shape)
    return float((np.abs(offsets[ids]) * amplified[ids]).max())


def sides_of(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    """What a BatchNorm reads and what it makes."""
    return _source(node), node.outputs[0]


def _ids_of(node: ir.Node, system: System) -> np.ndarray:
    return np.ravel(system.of(_source(node)))


def _source(node: ir.Node) -> ir.Value:
    source = node.inputs[0]
    assert source is not None
    return source


def _rounded(norm: BatchNorm) -> float:
    """The largest numbers that the BatchNorm's own arithmetic rounds."""
    return max(float((np.abs(norm.scale) * norm.inputs).max()), float(norm.outputs.max()), TINY)
