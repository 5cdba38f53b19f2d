"""Slice, Gather, Compress, TopK and their like take some numbers of a tensor, and their ids with them."""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.system import System, vary
from export.graph.edit import constant
from export.graph.sizes import sizes_of


def constrain_slice(node: ir.Node, system: System) -> bool:
    """Slice by constants: starts, ends, axes and steps as inputs, or as attributes before opset 10."""
    source = node.inputs[0]
    if source is None or source.shape is None:
        return False
    given = system.of(source)
    parts = {
        name: _ints(node, index, name) for index, name in enumerate(("starts", "ends", "axes", "steps"), 1)
    }
    starts, ends = parts["starts"], parts["ends"]
    if any(value is not None and constant(value) is None for value in node.inputs[1:]):
        return False
    if starts is None or ends is None:
        return False
    axes = parts["axes"] or list(range(len(starts)))
    steps = parts["steps"] or [1] * len(starts)
    index = [slice(None)] * given.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if vary(given, axis):
            stop = None if step < 0 and end < -given.shape[axis] else end
            index[axis] = slice(start, stop, step)
    system.ids[node.outputs[0]] = given[tuple(index)]
    return True


def constrain_gather(node: ir.Node, system: System) -> bool:
    """Gather, with constant indices where the gauge varies along its axis."""
    source, wanted = node.inputs[0], node.inputs[1]
    if source is None or source.shape is None or wanted is None:
        return False
    given, axis, indices = system.of(source), node.attributes.get_int("axis", 0), constant(wanted)
    if not vary(given, axis):
        shape = wanted.shape if indices is None else indices.shape
        if shape is None:
            return False
        indices = np.zeros((1,) * len(shape), dtype=np.int64)
    if indices is None:
        return False
    system.ids[node.outputs[0]] = given.take(indices, axis)
    return True


def constrain_gather_elements(node: ir.Node, system: System) -> bool:
    """GatherElements along an axis where the gauge does not vary; all of every other axis is taken."""
    source, indices = node.inputs[0], node.inputs[1]
    if source is None or source.shape is None or indices is None or indices.shape is None:
        return False
    given, axis = system.of(source), node.attributes.get_int("axis", 0)
    sizes = zip(sizes_of(source), sizes_of(indices), strict=True)
    same = [one == other and one is not None for one, other in sizes]
    if any(
        vary(given, place) and (place == axis % given.ndim or not same[place]) for place in range(given.ndim)
    ):
        return False
    system.ids[node.outputs[0]] = given
    return True


def _ints(node: ir.Node, index: int, name: str) -> list[int] | None:
    """Constant integers from an input, or from the attribute of the same name."""
    if index < len(node.inputs) and node.inputs[index] is not None:
        array = constant(node.inputs[index])
        return None if array is None else [int(number) for number in array]
    given = node.attributes.get_ints(name, None)
    return None if given is None else list(given)


def constrain_gather_nd(node: ir.Node, system: System) -> bool:
    """GatherND by axes where the gauge does not vary."""
    source, wanted = node.inputs[0], node.inputs[1]
    if source is None or source.shape is None or wanted is None or wanted.shape is None:
        return False
    given, named = system.of(source), wanted.shape[-1]
    if not isinstance(named, int):
        return False
    named += node.attributes.get_int("batch_dims", 0)
    if any(vary(given, axis) for axis in range(named)):
        return False
    system.ids[node.outputs[0]] = given.reshape((1,) * (len(wanted.shape) - 1) + given.shape[named:])
    return True


def constrain_compress(node: ir.Node, system: System) -> bool:
    """Compress, by a constant where the gauge varies along its axis; without an axis all places are one."""
    source, condition = node.inputs[0], node.inputs[1]
    if source is None or source.shape is None or condition is None:
        return False
    given, axis, wanted = system.of(source), node.attributes.get_int("axis", None), constant(condition)
    if axis is None:
        kept = given.reshape(1) if given.size == 1 else None
    elif not vary(given, axis):
        kept = given
    else:
        kept = None if wanted is None else given.take(np.flatnonzero(wanted), axis)
    if kept is None:
        return False
    system.ids[node.outputs[0]] = kept
    return True


def constrain_center(node: ir.Node, system: System) -> bool:
    """CenterCropPad crops any axis of known size, and adds zeros where the gauge does not vary."""
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or output.shape is None:
        return False
    given = system.of(source)
    index, fills = [slice(None)] * given.ndim, False
    for axis, (size, wanted) in enumerate(zip(sizes_of(source), sizes_of(output), strict=True)):
        if size is not None and size == wanted:
            continue
        if isinstance(size, int) and isinstance(wanted, int) and wanted < size:
            first = (size - wanted) // 2
            index[axis] = slice(first, first + wanted) if vary(given, axis) else slice(None)
        elif vary(given, axis):
            return False
        else:
            fills = True
    if fills:
        system.no_offset(given, node, "the padding of")
    system.ids[output] = given[tuple(index)]
    return True


def constrain_largest(node: ir.Node, system: System) -> bool:
    """TopK along an axis where the gauge does not vary: the same places, if a > 0."""
    if not _moves_along(node, node.attributes.get_int("axis", -1), system):
        return False
    system.positive(system.of(node.outputs[0]), node)
    return True


def constrain_reverse(node: ir.Node, system: System) -> bool:
    """ReverseSequence turns a time axis round, along which the gauge does not vary."""
    return _moves_along(node, node.attributes.get_int("time_axis", 0), system)


def _moves_along(node: ir.Node, axis: int, system: System) -> bool:
    """Numbers keep their gauge where they move along this axis alone; False where the gauge varies there."""
    source = node.inputs[0]
    if source is None or source.shape is None:
        return False
    given = system.of(source)
    if vary(given, axis):
        return False
    system.ids[node.outputs[0]] = given
    return True
