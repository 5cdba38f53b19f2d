"""BatchNormalization: gone, or kept with other parameters.

    y = s · x + t       stored x' = a_x · (x + b_x),  y' = a_y · (y + b_y)

It is gone, y' = x', iff  a_x = s · a_y  and  s · b_x = t + b_y.
One that stays takes any gauges on both sides.  With x = p · x' + q:

    (x − μ)/√(σ²+ε) = p · (x' − μ')/√(σ²+ε)      μ' = (μ − q)/p     γ' = a_y · γ · p      β' = a_y · (β + b_y)
"""

import numpy as np
import onnx_ir as ir

from export.compute.comparable import normalises_by_batch
from export.fold.batchnorm import BatchNorm, is_by_position
from export.fold.decomposed import axis_of
from export.fold.gauges.absorb import affine_after, affine_before, check
from export.fold.gauges.system import Equation, Link, Solution, System, has_constant, on_axis
from export.fold.linear.weights import write
from export.graph.edit import constant


def constrain(node: ir.Node, system: System) -> bool:
    """One unknown for each channel after it."""
    source = node.inputs[0]
    if source is None or normalises_by_batch(node):
        return False
    if source.shape is None or not all(has_constant(node, index) for index in range(1, 5)):
        return False
    if len(source.shape) <= axis_of(node):  # (N) is one channel, without an axis of its own
        return False
    given, gamma = system.narrow(source, axis_of(node), node), constant(node.inputs[1])
    assert gamma is not None
    if given is None or is_by_position(node):
        return False
    system.ids[node.outputs[0]] = system.fresh(on_axis(given.ndim, axis_of(node), gamma.size))
    return True


def gone(node: ir.Node, norm: BatchNorm, system: System) -> Equation:
    """What must hold for the node to be gone; nothing in channels with γ = 0 (see `dead`)."""
    source = node.inputs[0]
    assert source is not None
    alive = norm.scale != 0
    scale, shift = norm.scale[alive], norm.shift[alive]
    before = np.broadcast_to(np.ravel(system.of(source)), norm.scale.shape)[alive]
    after = np.broadcast_to(np.ravel(system.of(node.outputs[0])), norm.scale.shape)[alive]
    return Equation(
        says=f"BatchNorm '{node.name}' needs a scale and shift of its own",
        magnitude=Link(first=before, second=after, factor=np.abs(scale)),
        sign=Link(first=before, second=after, factor=np.sign(scale)),
        offset=([(before, scale), (after, -np.ones(scale.size))], shift),
        node=node,
    )


def unshifted(node: ir.Node, side: ir.Value, system: System) -> Equation:
    """b = 0 on its input or output, so that its shift moves to the other side."""
    ids = np.ravel(system.of(side))
    return Equation(
        says=f"BatchNorm '{node.name}' costs less without a shift on '{side.name}'",
        offset=([(ids, np.ones(ids.size))], np.zeros(ids.size)),
    )


def absorb(node: ir.Node, solution: Solution) -> None:
    """Write the gauges around a BatchNorm that stays into its parameters."""
    gamma, beta, mean = (np.asarray(constant(node.inputs[index]), dtype=np.float64) for index in (1, 2, 3))
    before = affine_before(solution, node, axis_of(node), gamma.size)
    after = affine_after(solution, node, axis_of(node), gamma.size)
    arrays = {
        1: gamma * before.scale * after.scale,
        2: beta * after.scale + after.shift,
        3: (mean - before.shift) / before.scale,
    }
    check(write(node, arrays))
