"""Resize and Pad work within a channel, with weights that sum to 1.

Resize (nearest, linear, cubic), Upsample, and Pad by edge, reflection or wrapping pass gauges on.  Pad by a
constant 0 needs b = 0, or, where the picture's size is known, an Add that puts a zero's stored value a · b
at the border.  By another number it is not understood.  GridSample is a Resize to any places,
and RoiAlign one of regions.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from export.fold.gauges.absorb import add_constant
from export.fold.gauges.system import Price, Solution, System, along, vary
from export.graph.edit import constant
from export.graph.sizes import sizes_of


def constrain_resize(node: ir.Node, system: System) -> bool:
    """Resize and Upsample; cropping with a value for what is outside is not understood."""
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return False
    return _pass_on(node, system)


def constrain_grid_sample(node: ir.Node, system: System) -> bool:
    """GridSample takes weighted means of places, of zeros too unless what is outside is taken from inside."""
    source, grid, output = node.inputs[0], node.inputs[1], node.outputs[0]
    given = None if source is None or source.shape is None else system.narrow(source, 1, node)
    if given is None or grid is None:
        return False
    system.fix(system.of(grid), f"the grid of GridSample '{node.name}' must stay the same")
    if node.attributes.get_string("padding_mode", "zeros") == "zeros":
        system.no_offset(given, node, "the zero padding of")
    system.ids[output] = given
    return True


def constrain_region(node: ir.Node, system: System) -> bool:
    """RoiAlign and MaxRoiPool: means or maxima of places within regions, of zeros where these lie outside."""
    source = node.inputs[0]
    given = None if source is None or source.shape is None else system.narrow(source, 1, node)
    if given is None:
        return False
    for value in node.inputs[1:]:
        if value is not None and constant(value) is None:
            system.fix(system.of(value), f"the regions of {node.op_type} '{node.name}' must stay the same")
    system.no_offset(given, node, "the border of")
    if node.op_type == "MaxRoiPool" or node.attributes.get_string("mode", "avg") == "max":
        system.positive(given, node)
    system.ids[node.outputs[0]] = given
    return True


def constrain_pad(node: ir.Node, system: System) -> bool:
    """Pad along axes where the gauge does not vary; by zeros it needs b = 0, or an Add at the border."""
    output = node.outputs[0]
    pads = _pads(node)
    if pads is None or not _pass_on(node, system):
        return False
    given = system.of(output)
    mode = node.attributes.get_string("mode", "constant")
    fills = any(max(pair) > 0 for pair in pads)  # else it only crops
    if any(vary(given, axis) and any(pair) for axis, pair in enumerate(pads)) or (
        mode == "constant" and fills and _fill(node) != 0
    ):
        del system.ids[output]
        return False
    if mode == "constant" and fills:
        system.no_offset(given, node, "the padding of", _border_price(node, given, pads))
    return True


def _border_price(node: ir.Node, given: np.ndarray, pads: list[tuple[int, int]]) -> Price | None:
    """An Add can only do it where it is one map (C, H, W) for every row."""
    source = node.inputs[0]
    if source is None or source.shape is None or source.dtype is None or given.ndim < 3:
        return None
    is_fixed = all(isinstance(size, int) for size in source.shape[2:])
    return Price.BORDER if is_fixed and along(given, 1) and not any((*pads[0], *pads[1])) else None


def absorb_pad(node: ir.Node, solution: Solution) -> None:
    """Where the tensor is stored with an offset, a zero of the padding is stored as a · b, by an Add."""
    source, output, pads = node.inputs[0], node.outputs[0], _pads(node)
    a, b = (array[solution.system.of(output)] for array in (solution.a, solution.b))
    if not b.any() or node.attributes.get_string("mode", "constant") != "constant":
        return
    assert source is not None
    assert source.shape is not None
    assert source.dtype is not None
    assert pads is not None
    inside = np.ones([size if isinstance(size, int) else 1 for size in source.shape[2:]], dtype=bool)
    for axis, (begin, end) in enumerate(pads[2:]):
        crop = [slice(None)] * inside.ndim
        crop[axis] = slice(max(0, -begin), inside.shape[axis] - max(0, -end))
        grow = [(0, 0)] * inside.ndim
        grow[axis] = (max(0, begin), max(0, end))
        inside = np.pad(inside[tuple(crop)], grow)
    border = np.where(inside, 0.0, (a * b)[0])
    add_constant(solution, node, border.astype(source.dtype.numpy()))


def _fill(node: ir.Node) -> float:
    """The number that a constant Pad fills in; NaN if it is computed."""
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        given = constant(node.inputs[2])
        return float("nan") if given is None else float(np.ravel(given)[0])
    return node.attributes.get_float("value", 0.0)


def _pads(node: ir.Node) -> list[tuple[int, int]] | None:
    """(begin, end) of every axis; None if they are computed, or the rank is unknown."""
    source = node.inputs[0]
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_ints("pads", None)
    if source is None or source.shape is None or pads is None:
        return None
    rank = len(source.shape)
    axes: Sequence[int] = range(rank)
    if len(node.inputs) > 3 and node.inputs[3] is not None:  # from opset 18 on
        given = constant(node.inputs[3])
        if given is None:
            return None
        axes = [int(axis) % rank for axis in given]
    if len(pads) != 2 * len(axes):
        return None
    pairs = [(0, 0)] * rank
    for index, axis in enumerate(axes):
        pairs[axis] = (int(pads[index]), int(pads[len(axes) + index]))
    return pairs


def _pass_on(node: ir.Node, system: System) -> bool:
    source, output = node.inputs[0], node.outputs[0]
    if source is None or source.shape is None or output.shape is None:
        return False
    given = system.of(source)
    same = [
        one == other and one is not None
        for one, other in zip(sizes_of(source), sizes_of(output), strict=True)
    ]
    if any(vary(given, axis) and not same[axis] for axis in range(given.ndim)):
        return False
    system.ids[output] = given
    return True
