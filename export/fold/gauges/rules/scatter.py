"""Scatter, ScatterElements and ScatterND write numbers over others: both must have the same gauge.

y = x, but y[places] = u        a_y = a_x = a_u        b_y = b_x = b_u

Where x is nothing but zeros, it has any scale, and b = 0.  Sums, products and maxima are not understood.
"""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.system import System, vary
from export.graph.edit import constant
from export.graph.sizes import sizes_of


def constrain(node: ir.Node, system: System) -> bool:
    """The gauge may vary along axes that are written as a whole, or place by place."""
    target, indices, updates = node.inputs[:3]
    if target is None or indices is None or updates is None:
        return False
    if target.shape is None or indices.shape is None or updates.shape is None:
        return False
    if node.attributes.get_string("reduction", "none") != "none":
        return False
    given = system.of(target)
    written = _of_slices if node.op_type == "ScatterND" else _of_places
    new = written(node, target, indices, updates, system)
    if new is None:
        return False
    zeros = constant(target)
    if zeros is not None and not zeros.any():
        system.no_offset(new, node, "the zeros around")
        out = new
    else:
        out, new = np.broadcast_arrays(given, new)
        system.equal(out, new, f"{node.op_type} '{node.name}' needs the same scale and shift on its parts")
    system.ids[node.outputs[0]] = out.copy()
    return True


def _of_slices(
    node: ir.Node, target: ir.Value, indices: ir.Value, updates: ir.Value, system: System
) -> np.ndarray | None:
    """The updates' gauge as the target's: an index is of its first axes, and all of the others is written."""
    assert indices.shape is not None
    named, new, given = indices.shape[-1], system.of(updates), system.of(target)
    places = len(indices.shape) - 1
    if not isinstance(named, int) or new.ndim != places + given.ndim - named:
        return None
    if any(vary(new, axis) for axis in range(places)):
        return None
    return new.reshape((1,) * named + new.shape[places:])


def _of_places(
    node: ir.Node, target: ir.Value, indices: ir.Value, updates: ir.Value, system: System
) -> np.ndarray | None:
    """The updates' gauge, which varies along no axis but those where a number keeps its place."""
    given, new, axis = system.of(target), system.of(updates), node.attributes.get_int("axis", 0)
    if new.ndim != given.ndim:
        return None
    sizes = zip(sizes_of(target), sizes_of(indices), sizes_of(updates), strict=True)
    kept = [one is not None and one == other == third for one, other, third in sizes]
    kept[axis] = False
    is_moved = any(not kept[place] and (vary(given, place) or vary(new, place)) for place in range(new.ndim))
    return None if is_moved else new
