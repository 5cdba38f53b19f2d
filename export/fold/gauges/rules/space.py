"""Resize and Pad work within a channel, with weights that sum to 1.

Resize (nearest, linear, cubic), Upsample, and Pad by edge, reflection or wrapping pass gauges on.  Pad by a
constant 0 needs b = 0, by another number it is not understood.
"""

import numpy as np
import onnx_ir as ir

from export.fold.gauges.system import System, vary
from export.graph.edit import constant
from export.graph.sizes import sizes_of


def constrain_resize(node: ir.Node, system: System) -> bool:
    """Resize and Upsample; cropping with a value for what is outside is not understood."""
    if node.attributes.get_string("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        return False
    return _pass_on(node, system)


def constrain_pad(node: ir.Node, system: System) -> bool:
    """Pad along axes where the gauge does not vary."""
    mode = node.attributes.get_string("mode", "constant")
    if not _pass_on(node, system) or _moves(node, system):
        system.ids.pop(node.outputs[0], None)
        return False
    if mode == "constant":
        fill = node.attributes.get_float("value", 0.0)
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            given = constant(node.inputs[2])
            fill = float("nan") if given is None else float(np.ravel(given)[0])
        if fill != 0:
            del system.ids[node.outputs[0]]
            return False
        system.no_offset(system.of(node.outputs[0]), node, "the zeros of")
    return True


def _moves(node: ir.Node, system: System) -> bool:
    """Whether an axis along which the gauge varies is padded (and cropped)."""
    given = system.of(node.outputs[0])
    pads = constant(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get_ints("pads", ())
    if pads is None or len(pads) != 2 * given.ndim:
        return pads is None or (given.size > 1 and bool(np.any(pads)))
    return any(vary(given, axis) and np.any(pads[axis :: given.ndim]) for axis in range(given.ndim))


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
