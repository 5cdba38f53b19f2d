"""Max, Min and Where choose between tensors place by place: all must have the same gauge.

    max(a · (x + b), a · (z + b)) = a · (max(x, z) + b)  for a > 0        Max, Min
    where(c, a · (x + b), a · (z + b)) = a · (where(c, x, z) + b)         Where

A constant among them takes any gauge:  k' = a · (k + b).
"""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.absorb import check
from export.fold.gauges.system import Solution, System
from export.fold.linear.weights import write
from export.graph.edit import constant


def constrain(node: ir.Node, system: System) -> bool:
    """The same gauge on all that is chosen from; a > 0 where the larger or smaller one is chosen."""
    shape, chosen = node.outputs[0].shape, _chosen(node)
    if shape is None or any(value is None or value.shape is None for value in node.inputs):
        return False
    arrays = [constant(node.inputs[index]) for index in chosen]
    if any(array is not None and not (array.dtype.kind == "f" and _is_finite(array)) for array in arrays):
        return False
    sources = [node.inputs[index] for index, array in zip(chosen, arrays, strict=True) if array is None]
    given = [_wide(system.of(value), len(shape)) for value in sources if value is not None]
    if not given:
        return False
    first, *others = np.broadcast_arrays(*given)
    for other in others:
        system.equal(
            first, other, f"{node.op_type} '{node.name}' needs the same scale and shift on its parts"
        )
    out = first if others else given[0]
    if node.op_type == "Where":
        assert node.inputs[0] is not None
        if constant(node.inputs[0]) is None:
            system.fix(system.of(node.inputs[0]), f"the condition of Where '{node.name}' must stay the same")
    else:
        system.positive(out, node)
    system.ids[node.outputs[0]] = out.copy()
    return True


def absorb(node: ir.Node, solution: Solution) -> None:
    """Write the gauge into the constants."""
    ids = solution.system.of(node.outputs[0])
    a, b = solution.a[ids], solution.b[ids]
    if solution.is_plain(node.outputs[0]):
        return
    for index in _chosen(node):
        if (array := constant(node.inputs[index])) is not None:
            with np.errstate(over="ignore"):  # `write` refuses what is beyond the dtype, and says so
                moved = a * (array.astype(np.float64) + b)
            check(write(node, {index: np.where(_is_no_bound(node, array), array, moved)}))


def _chosen(node: ir.Node) -> range:
    """The places of the inputs that are chosen from; the first of Where is its condition."""
    return range(1 if node.op_type == "Where" else 0, len(node.inputs))


def _is_no_bound(node: ir.Node, array: np.ndarray) -> np.ndarray:
    """Where a constant of Max or Min cuts nothing off: there it may stay, whatever the gauge.

    ±the largest number, as a Relu gets that is cut in some channels only (see `activation`): times a it
    would overflow.
    """
    if node.op_type == "Where" or array.dtype.kind != "f":
        return np.zeros(array.shape, dtype=bool)
    largest = np.finfo(array.dtype).max
    return np.asarray(array == (-largest if node.op_type == "Max" else largest))


def _is_finite(array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all())


def _wide(ids: np.ndarray, rank: int) -> np.ndarray:
    return ids.reshape((1,) * (rank - ids.ndim) + ids.shape)
